"""What an engine died of: the kinds, and the reason for each."""

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
    ({"status": -signal.SIGILL}, Kind.OUTSIDE),  # any request would cause it
    ({"status": -signal.SIGBUS}, Kind.OUTSIDE),
    ({"fatal": Fatal("ZeroDivisionError at speculation.py:61 observe", ours=True)}, Kind.OWN),
    ({"status": 1}, Kind.OWN),
    ({"status": 0}, Kind.OWN),  # it exited, or sent an invalid frame
]


@pytest.mark.parametrize(("end", "kind"), ENDS)
def test_the_kinds(end: dict[str, Any], kind: Kind) -> None:
    """LOADING until the engine was ready, whatever the cause; afterwards an error of our own code, or a death at work,
    by what may have caused it."""
    assert judge(was_ready=True, reason="it died", **end).kind is kind
    assert judge(was_ready=False, reason="it died", **end).kind is Kind.LOADING


def test_the_most_specific_reason_is_given() -> None:
    """The engine's own Fatal, the signal's meaning, or what the front noticed."""
    assert judge(was_ready=False, reason="x", fatal=Fatal("no such model")) == Death(Kind.LOADING, "no such model")
    ours = judge(was_ready=True, reason="x", fatal=Fatal("ZeroDivisionError at a.py:1 f", ours=True))
    assert ours.reason == "an internal error: ZeroDivisionError at a.py:1 f"
    assert judge(was_ready=True, reason="it was closed", silenced=SILENT) == SILENT
    assert judge(was_ready=True, reason="it died", status=3).reason == "it died (exit status 3)"
    stderr = ["/build/ggml.c:7: GGML_ASSERT(a > 0) failed"]
    assert judge(was_ready=True, reason="it died", status=-6, stderr=stderr).reason == by_signal(6, stderr=stderr)
