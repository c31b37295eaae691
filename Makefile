# Every command of the house. `make serve` and `make test` need only Python >= 3.11, a C++ compiler and make.

PYTHON ?= python3
BIN := .venv/bin
LOCK := deploy/lock

.PHONY: help serve check test chaos hostile fuzz bench soak loadtest lint lock starter always

# What there is to make, with the first line of what is written above each.
help:
	@awk '/^#/ {if (!said) said = substr($$0, 3)} /^[a-z]+:/ {split($$0, name, ":"); printf "make %-9s %s\n", name[1], said} !/^#/ {said = ""}' Makefile

# The service, on this machine alone, with the embedded model or RILL_MODEL.
serve: .venv/.run
	@$(BIN)/python -m service

UNIT := tests/test_imports.py tests/test_docs.py tests/test_errors.py tests/test_settings.py tests/test_words.py tests/streams \
    tests/dialects tests/protocol tests/metrics tests/engine/kv tests/engine/scheduling tests/engine/sequences
# Lint, types, and the tests that start no process and load no model: in a minute.
check: lint
	$(BIN)/python -m pytest -q -n 2 $(UNIT)

# All tests. In several processes, for most tests wait for others most of the time; a test at a time goes to the process that is idle,
# for some take a millisecond and some minutes (loadgroup); those of the compose stack go to one, which starts it once.
test: .venv/.dev
	$(BIN)/python -m pytest -n 3 --dist loadgroup

# The engine killed and stopped, connections cut, replicas and Redis lost, a thousand times: over half an hour, and tables.
chaos: .venv/.dev
	$(BIN)/python -m tests.chaos $(CHAOS)

# What four well-behaved clients notice of each kind of hostile ones: five minutes, and a table.
hostile: .venv/.dev
	$(BIN)/python -m tests.hostile $(HOSTILE)

# 20,000 bad requests beside a client that streams all the while: what came of them that must not. Minutes, and a table.
fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Rill and a llama-server in turn on one model, and a table: BENCH='--model FILE.gguf --peer DIRECTORY', or BENCH=--help.
bench: .venv/.dev
	$(BIN)/python -m tests.bench $(BENCH)

# 50,000 requests with readers that leave in the middle: does the front or the engine grow? Most of an hour, and a table.
soak: .venv/.dev
	$(BIN)/python -m tests.bench.soak $(SOAK)

# Locust, with a page at http://localhost:8089: LOADTEST='--host http://127.0.0.1:8000', or LOADTEST=--help.
loadtest: .loadtest/.installed
	.loadtest/bin/locust -f deploy/loadtest/locustfile.py --web-host 127.0.0.1 $(LOADTEST)

# Style, format, and types.
lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service tests deploy examples

# Trains the embedded model anew, puts it in its place and measures it: over an hour on two idle cores.
# TRAIN='--steps 50 --decay 20' shows in a minute that it runs, with a model that can't talk.
starter: .venv/.dev
	$(BIN)/python -m pip install -q "$$(sed -n 's/^starter = .*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"
	$(BIN)/python -m deploy.starter.train --out .starter $(TRAIN)
	$(BIN)/python -m deploy.starter.export .starter/final.pt .starter/tokenizer.json .starter/f32.gguf --type f32
	$(BIN)/python -m deploy.starter.export .starter/final.pt .starter/tokenizer.json .starter/q8_0.gguf
	mv .starter/q8_0.gguf service/starter/rill-starter-q8_0.gguf
	$(BIN)/python -m deploy.starter.evaluate
	$(BIN)/python -m deploy.starter.parity --checkpoint .starter/final.pt --f32 .starter/f32.gguf

# The lock files are made on one machine and hold for all: --universal, with hashes, no registry named. The engine has
# one of its own, so that a change of any other package does not compile it again.
lock:
	for set in "build $(LOCK)/build.in" "run pyproject.toml" "dev --extra dev -c $(LOCK)/run.txt pyproject.toml" \
	    "loadtest $(LOCK)/loadtest.in" "cuda $(LOCK)/cuda.in"; do \
	    set -- $$set; name=$$1; shift; \
	    uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	        --python-version 3.11 "$$@" -o $(LOCK)/$$name.txt || exit 1; \
	done
	sed -n '/^llama-cpp-python==/,/[^\\]$$/p' $(LOCK)/run.txt >$(LOCK)/engine.txt
	npm install --prefix examples --package-lock-only --silent

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rill needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

# Asked each time, in a quarter of a second: only the installer knows whether sources, flags, compiler, processor and card are
# still those that the engine was built from. It touches the stamp when it has installed one.
.venv/.engine: always | .venv/bin/python
	@deploy/install-engine $(BIN)/python $@

.venv/.run: .venv/.engine
	$(BIN)/python -m pip install -q --require-hashes -r $(LOCK)/run.txt
	@$(BIN)/python -m pip uninstall -qqq -y diskcache # which engines before deploy/patches/0023 required
	@touch $@

.venv/.dev: .venv/.run $(LOCK)/dev.txt
	$(BIN)/python -m pip install -q --require-hashes -r $(LOCK)/dev.txt
	@touch $@

.loadtest/.installed: $(LOCK)/loadtest.txt
	$(PYTHON) -m venv .loadtest
	.loadtest/bin/python -m pip install -q --require-hashes -r $(LOCK)/loadtest.txt
	@touch $@
