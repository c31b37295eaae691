"""What an engine died of: the three kinds, and the words for each."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from service.protocol.deaths import Kind, by_signal
from service.protocol.frames import Fatal
from service.supervision.deaths import Death, judge

SILENT = Death(Kind.HANG, "no heartbeat for 2 s")
ENDS: list[tuple[dict[str, Any], Kind]] = [
    ({"status": -signal.SIGSEGV}, Kind.CRASH),
    ({"status": -signal.SIGABRT}, Kind.CRASH),
    ({"status": -signal.SIGFPE}, Kind.CRASH),
    ({"fatal": Fatal("llama_decode returned -3")}, Kind.CRASH),
    ({"silenced": SILENT}, Kind.HANG),
    ({"silenced": SILENT, "status": -signal.SIGKILL}, Kind.HANG),  # the kill was ours
    ({"silenced": Death(Kind.OUTSIDE, "it was stopped"), "status": -signal.SIGKILL}, Kind.OUTSIDE),
    ({"status": -signal.SIGKILL}, Kind.OUTSIDE),
    ({"status": -signal.SIGTERM}, Kind.OUTSIDE),
    ({"status": -signal.SIGILL}, Kind.OUTSIDE),  # any request brings it to light
    ({"status": -signal.SIGBUS}, Kind.OUTSIDE),
    ({"fatal": Fatal("ZeroDivisionError at speculation.py:61 observe", ours=True)}, Kind.OWN),
    ({"status": 1}, Kind.OWN),
    ({"status": 0}, Kind.OWN),  # it left, or sent what is no frame
]


@pytest.mark.parametrize(("end", "kind"), ENDS)
def test_the_three_kinds(end: dict[str, Any], kind: Kind) -> None:
    """While it loads nothing else counts; of our own code; at work, and of that by whom."""
    assert judge(was_ready=True, reason="it died", **end).kind is kind
    assert judge(was_ready=False, reason="it died", **end).kind is Kind.LOADING


def test_the_reason_is_the_one_that_knows_most() -> None:
    """The engine's own last word, the signal's meaning, or what the front noticed."""
    assert judge(was_ready=False, reason="x", fatal=Fatal("no such model")) == Death(Kind.LOADING, "no such model")
    ours = judge(was_ready=True, reason="x", fatal=Fatal("ZeroDivisionError at a.py:1 f", ours=True))
    assert ours.reason == "an internal error: ZeroDivisionError at a.py:1 f"
    assert judge(was_ready=True, reason="it was closed", silenced=SILENT) == SILENT
    assert judge(was_ready=True, reason="it died", status=3).reason == "it died (exit status 3)"
    stderr = ["/build/ggml.c:7: GGML_ASSERT(a > 0) failed"]
    assert judge(was_ready=True, reason="it died", status=-6, stderr=stderr).reason == by_signal(6, stderr=stderr)
