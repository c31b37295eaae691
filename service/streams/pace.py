"""A reading speed: when the next event of a paced reader is due. Pure."""

from __future__ import annotations


class Pace:
    """When the next event is due at tokens_per_s. After a stall it continues evenly and makes up for less than one
    interval: what was missed is not sent in a burst."""

    __slots__ = ("_due", "_interval_s")

    def __init__(self, tokens_per_s: float) -> None:
        self._interval_s = 1.0 / tokens_per_s
        self._due = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next event may leave; 0 or less: now."""
        return self._due - now

    def sent(self, n_tokens: int, now: float) -> None:
        """An event of n_tokens left."""
        late = now - self._due
        start = self._due if late < self._interval_s else now
        self._due = start + max(1, n_tokens) * self._interval_s
