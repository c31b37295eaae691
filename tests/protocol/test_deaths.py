"""deaths.py: each end by its name, with what an operator can do; nothing of a request in it."""

from __future__ import annotations

import signal

import pytest

from service.engine.llama.model import features
from service.protocol.deaths import MOST_WORDS, by_error, by_signal, instruction_sets

FEATURES = "CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGILL, ["processor", "CMAKE_ARGS=-DGGML_NATIVE=OFF deploy/install-engine", "-mno-amx-tile"]),
        (signal.SIGKILL, ["killed from outside", "memory", "RILL_N_CTX"]),
        (signal.SIGABRT, ["llama.cpp aborted"]),
        (signal.SIGSEGV, ["native code"]),
        (signal.SIGFPE, ["arithmetic"]),
        (signal.SIGBUS, ["model file was truncated", "/dev/shm"]),
        (signal.SIGTERM, ["from outside"]),
    ],
)
def test_signals(number: signal.Signals, words: list[str]) -> None:
    """The name, the status that a shell or a log shows, and what can be done."""
    told = by_signal(number)
    assert told.startswith(f"it died of {number.name} (exit status {-number}): ")
    assert [word for word in words if word not in told] == []
    assert "{" not in told


def test_a_signal_without_a_name() -> None:
    """Real-time signals have none."""
    assert by_signal(40).startswith("it died of signal 40 (exit status -40): it was terminated from outside")


def test_an_illegal_instruction_tells_what_was_built() -> None:
    """The instruction sets that the build uses, not the other features that it has; this build's own among them."""
    assert instruction_sets(FEATURES) == ["SSE3", "AVX2", "AMX_INT8"]
    assert "(its sets: SSE3, AVX2, AMX_INT8)" in by_signal(signal.SIGILL, features=FEATURES)
    assert instruction_sets(features()) or "CPU : " in features()


def test_an_abort_has_llama_cpps_last_words() -> None:
    """The line that ggml_abort writes, without the builder's path; of all others none, for they may quote a request."""
    stderr = ["engine: tiny loaded", "/tmp/x/ggml/src/ggml.c:123: GGML_ASSERT(a == b) failed", "grammar: my secret"]
    told = by_signal(signal.SIGABRT, stderr=stderr)
    assert told.endswith(": ggml.c:123: GGML_ASSERT(a == b) failed")
    assert "secret" not in told
    thrown = ["terminate called after throwing an instance of 'std::out_of_range'", "  what():  secret"]
    assert by_signal(signal.SIGABRT, stderr=thrown).endswith("'std::out_of_range'")
    assert len(by_signal(signal.SIGSEGV, stderr=[f"a.cpp:1: {'x' * 10_000}"])) < MOST_WORDS + 100


def caught(source: str) -> BaseException:
    try:
        exec(source)
    except Exception as e:
        return e
    raise AssertionError("no exception")


def test_an_error_of_our_own_has_its_place() -> None:
    """Type, message and the innermost frames, as far as the message is Python's own words."""
    told = by_error(caught("def f():\n    1 / 0\nf()"))
    assert (
        told == "ZeroDivisionError: division by zero at <string>:2 f < <string>:3 <module> < " + told.split(" < ")[-1]
    )
    assert told.endswith(" caught") and "test_deaths.py:" in told


@pytest.mark.parametrize(
    "source", ['{}["secret"]', 'int("secret")', 'raise RuntimeError("secret")', 'b"secret".decode("utf-7", x="secret")']
)
def test_an_error_tells_nothing_of_a_request(source: str) -> None:
    """Where a message may quote what it was given, only type and place are told."""
    told = by_error(caught(source))
    assert "secret" not in told and " at <string>:1 <module>" in told


def test_an_error_is_bounded() -> None:
    """However much an exception says."""
    assert len(by_error(OverflowError("x" * 10**6))) < MOST_WORDS + 100
