"""The kinds of an engine's death, and which of them may be a request's fault. Pure.

A death while loading, or by a signal from outside, is no request's fault. streams/recovery.py blames requests for the
other kinds (hangs, crashes, errors of the engine's own code) only, and only after trials.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from service.protocol import deaths
from service.protocol.deaths import Kind
from service.protocol.frames import Fatal

# Not SIGKILL; SIGILL, a build unfit for this processor, which any request exposes; SIGBUS, a cut file.
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)


@dataclass(frozen=True, slots=True)
class Death:
    """reason: for people; with a remedy, where there is one."""

    kind: Kind
    reason: str


def judge(
    *,
    was_ready: bool,
    reason: str,
    fatal: Fatal | None = None,
    silenced: Death | None = None,
    status: int = 0,
    features: str = "",
    stderr: Iterable[str] = (),
) -> Death:
    """The death of an engine.

    reason: how the front noticed. fatal: the engine's own last frame. silenced: why the front killed it, as it did not
    respond. status: of the process's exit, negative for a signal; 0 if the front ended it.
    features, stderr: see protocol/deaths.py.
    """
    kind = Kind.OWN
    if fatal is not None:
        kind = Kind.OWN if fatal.ours else Kind.CRASH
        reason = f"an internal error: {fatal.message}" if fatal.ours else fatal.message
    elif silenced is not None:
        kind, reason = silenced.kind, silenced.reason
    elif status < 0:
        kind = Kind.CRASH if -status in _CRASHES else Kind.OUTSIDE
        reason = deaths.by_signal(-status, features=features, stderr=stderr)
    elif status > 0:
        reason = f"{reason} (exit status {status})"
    return Death(kind if was_ready else Kind.LOADING, reason)
