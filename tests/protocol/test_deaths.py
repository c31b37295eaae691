"""deaths.py: the reason for each kind of engine death, with advice for the operator and without a request's content."""

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
    """The reason has the signal's name, the exit status that a shell or a log shows, and advice."""
    told = by_signal(number)
    assert told.startswith(f"it died of {number.name} (exit status {-number}): ")
    assert [word for word in words if word not in told] == []
    assert "{" not in told


def test_a_signal_without_a_name() -> None:
    """Real-time signals have none."""
    assert by_signal(40).startswith("it died of signal 40 (exit status -40): it was terminated from outside")


def test_an_illegal_instruction_names_the_instruction_sets() -> None:
    """Those that the build uses, without its other features; this build's own can be read, too."""
    assert instruction_sets(FEATURES) == ["SSE3", "AVX2", "AMX_INT8"]
    assert "(its sets: SSE3, AVX2, AMX_INT8)" in by_signal(signal.SIGILL, features=FEATURES)
    assert instruction_sets(features()) or "CPU : " in features()


def test_an_abort_has_llama_cpps_message() -> None:
    """The line that ggml_abort writes, without the builder's path; no other line, as it may quote a request."""
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


def test_an_internal_error_has_its_location() -> None:
    """Type, message and the innermost frames, the message only if it is Python's own text."""
    told = by_error(caught("def f():\n    1 / 0\nf()"))
    assert (
        told == "ZeroDivisionError: division by zero at <string>:2 f < <string>:3 <module> < " + told.split(" < ")[-1]
    )
    assert told.endswith(" caught") and "test_deaths.py:" in told


@pytest.mark.parametrize(
    "source", ['{}["secret"]', 'int("secret")', 'raise RuntimeError("secret")', 'b"secret".decode("utf-7", x="secret")']
)
def test_an_error_has_nothing_of_a_request(source: str) -> None:
    """If a message may quote its input, only type and location are given."""
    told = by_error(caught(source))
    assert "secret" not in told and " at <string>:1 <module>" in told


def test_an_error_is_bounded() -> None:
    """However long the exception's message is."""
    assert len(by_error(OverflowError("x" * 10**6))) < MOST_WORDS + 100
