"""When the KV cache is compacted: whenever it must be, and for speed alone a hundredth of the time at most. Pure."""

from __future__ import annotations

from service.engine.kv.cells import Cells

# Times what a compaction took, until the next one is no longer frequent: a prompt that comes, leaves holes and ends,
# thirty times a second, would otherwise have all streams wait for 8,000 cells each time (10 to 40 ms, starter).
REST = 99.0


class Compaction:
    """Carried out by the context; its time is reported back."""

    def __init__(self, cells: Cells, *, for_speed: bool) -> None:
        """for_speed: whether one is allowed that is not needed."""
        self._cells, self._for_speed = cells, for_speed
        self._rests_until = 0.0  # of schedule's clock

    def __repr__(self) -> str:
        return f"<Compaction of {self._cells!r}>"

    def is_due(self, n: int, n_longest: int, now: float) -> bool:
        """Before n more cells are taken; n_longest: tokens that the longest prompt has left."""
        may_be = self._for_speed and not self.is_frequent(now)
        return self._cells.must_tidy(n) or (may_be and self._cells.should_tidy(n_longest))

    def is_frequent(self, now: float) -> bool:
        """Whether the last one was so recent that another one takes too much of the time."""
        return now < self._rests_until

    def took(self, took_s: float, now: float) -> None:
        """One took took_s, and has just ended."""
        self._rests_until = now + REST * took_s
