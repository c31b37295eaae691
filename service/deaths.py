"""The three ways in which an engine dies, and which of them may be a request's fault. Pure.

While it loads; of an error of its own code; while it works. Of the last, what comes from outside is no request's fault
either: recovery.py blames for hangs and crashes only, and only after trials.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from service.engine import deaths
from service.engine.protocol import Fatal


class Kind(StrEnum):
    LOADING = "loading"  # before it was ready: nothing had been asked of it
    OWN = "own error"  # an exception in the engine's own Python
    OUTSIDE = "outside"  # a signal that no request can cause
    HANG = "hang"
    CRASH = "crash"  # native code ended the process, or llama.cpp can't continue


# A kill; a build that does not fit this processor, which any request brings to light; a file that was cut.
_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)


@dataclass(frozen=True, slots=True)
class Death:
    """reason: for people; with what can be done, where something can."""

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
    """Of an engine that is gone.

    reason: the front's word for how it noticed. fatal: the engine's own last word. silenced: what the front ended it
    for, as it did not answer. status: of the process's exit, negative by signal; it tells nothing of one that the
    front ended.
    features, stderr: see engine/deaths.py.
    """
    kind = Kind.OWN
    if fatal is not None:
        kind = Kind.OWN if fatal.ours else Kind.CRASH
        reason = f"an error of its own: {fatal.message}" if fatal.ours else fatal.message
    elif silenced is not None:
        kind, reason = silenced.kind, silenced.reason
    elif status < 0:
        kind = Kind.CRASH if -status in _CRASHES else Kind.OUTSIDE
        reason = deaths.by_signal(-status, features=features, stderr=stderr)
    elif status > 0:
        reason = f"{reason} (exit status {status})"
    return Death(kind if was_ready else Kind.LOADING, reason)
