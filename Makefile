# Every command of the house. `make serve` and `make test` need only Python >= 3.11, a C++ compiler and make.

PYTHON ?= python3
BIN := .venv/bin
LOCK := deploy/lock

.PHONY: serve test lint lock

serve: .venv/.run
	@$(BIN)/python -m service

test: .venv/.dev
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service tests deploy

# The lock files are made on one machine and hold for all: --universal, with hashes, no registry named.
lock:
	for set in "build $(LOCK)/build.in" "run pyproject.toml" "dev --extra dev -c $(LOCK)/run.txt pyproject.toml"; do \
	    set -- $$set; name=$$1; shift; \
	    uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	        --python-version 3.11 "$$@" -o $(LOCK)/$$name.txt || exit 1; \
	done

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Rill needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/.engine: $(LOCK)/build.txt $(LOCK)/run.txt | .venv/bin/python
	@deploy/install-engine $(BIN)/python
	@touch $@

.venv/.run: .venv/.engine
	$(BIN)/python -m pip install -q --require-hashes -r $(LOCK)/run.txt
	@touch $@

.venv/.dev: .venv/.run $(LOCK)/dev.txt
	$(BIN)/python -m pip install -q --require-hashes -r $(LOCK)/dev.txt
	@touch $@
