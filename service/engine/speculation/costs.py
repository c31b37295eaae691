"""What a decode costs by its rows, learnt while it runs. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left

LEAST_S, MOST_S = 1e-6, 3600.0  # of a decode, whatever a clock says: a kernel call takes a microsecond
MOST_SURPRISE = 2.0  # factor between expected and measured time that counts
OWN, SHARED = 1 / 16, 1 / 4  # weights of a deviation: in its rows' ratio, and of the rest in the common factor
# Decay of a ratio with each decode of other row counts: half after 2,080, a minute at 40 tokens/s. Four rows that cost
# 1.4 and were taken for 4 are tried again within two; trying expensive counts takes one decode in a hundred.
FADE = 1 - 1 / 3000
FRESH = 100  # decodes before the decay begins
LEAST_FADE = 1 / 64  # more rows than that are not planned


class DecodeCost:
    """Seconds of a decode by its rows, as measured: a common factor (how busy the machine is) and a ratio for each.

    A measurement may be wrong by any factor: other processes take whole time slices, clocks stand still. So all are
    bounded, each observation moves the estimate by a bounded step, and row counts not seen for long are taken for
    cheaper and cheaper until tried again: one bad measurement would otherwise rule them out forever.
    """

    def __init__(self) -> None:
        self._seconds = LEAST_S  # of a decode with a ratio of 1
        self._ratios: dict[int, float] = {}
        self._known: list[int] = []
        self._seen: dict[int, int] = {}  # which observation was the last of each
        self._n = 0  # observations

    def observe(self, n_rows: int, seconds: float) -> None:
        """A decode of n_rows, all with logits, took `seconds`. A clock that stands still shows nothing."""
        if not seconds > 0:  # NaN is not either
            return
        seconds = min(max(seconds, LEAST_S), MOST_S)
        self._n += 1
        if n_rows in self._ratios:
            self._learn(n_rows, seconds)
        else:
            self._begin(n_rows, seconds)
        self._seen[n_rows] = self._n

    def of(self, n_rows: int) -> float:
        """Seconds of a decode of n_rows, always more than 0: interpolated between two known row counts; beyond them
        each row takes their average, or what the last ones took if that is more. LEAST_S a row if none is known."""
        known = self._known
        if n_rows in self._ratios:
            # No less than one row, however long ago it was seen: otherwise it would pad each single stream's decode.
            return self._seconds * max(self._ratio(n_rows), self._one())
        if len(known) < 2:  # as if each row cost the same: no draft pays then
            return self._seconds * n_rows / (known[0] if known else 1)
        at = min(max(bisect_left(known, n_rows), 1), len(known) - 1)
        left, right = known[at - 1], known[at]
        ratio, next_ratio = self._ratio(left), self._ratio(right)
        slope = (next_ratio - ratio) / (right - left)
        if n_rows > right:
            left, ratio, slope = right, next_ratio, max(slope, next_ratio / right)
        # Never less than half of its neighbour's: two measurements may be wrong, and no row is free.
        return self._seconds * max(ratio + slope * (n_rows - left), ratio / 2, self._one())

    def _begin(self, n_rows: int, seconds: float) -> None:
        """The first observation of n_rows, capped at the cost of as many decodes of one row."""
        if not self._known:
            self._seconds = seconds
        ratio = seconds / self._seconds
        self._put(n_rows, min(ratio, n_rows * self._ratios[1]) if 1 in self._ratios else ratio)
        self._known = sorted(self._ratios)

    def _learn(self, n_rows: int, seconds: float) -> None:
        """A further observation. A pause of the whole machine hardly counts; a lasting change is learnt after ten
        decodes. The longer it was not seen, the more it counts, and for its own ratio alone."""
        fade = self._fade(n_rows)
        most = math.log(MOST_SURPRISE) / fade
        surprise = math.log(seconds / (self._seconds * self._ratios[n_rows]))
        surprise = min(max(surprise, -most), most)
        own = 1 - fade * (1 - OWN)
        self._put(n_rows, self._ratios[n_rows] * math.exp(own * surprise))
        self._seconds = _bounded(self._seconds * math.exp((1 - own) * SHARED * surprise))

    def _put(self, n_rows: int, ratio: float) -> None:
        """One row takes no longer than more: when it seems to, it was disturbed, as disturbances only add time."""
        self._ratios[n_rows] = ratio = _bounded(ratio)
        if 1 in self._ratios:
            self._ratios[1] = min(self._ratios[1], ratio)

    def _ratio(self, n_rows: int) -> float:
        return self._ratios[n_rows] * self._fade(n_rows)

    def _one(self) -> float:
        return self._ratio(1) if 1 in self._ratios else 0.0

    def _fade(self, n_rows: int) -> float:
        """The decay of its ratio since it was last seen."""
        age = self._n - self._seen[n_rows] - FRESH
        return max(FADE**age, LEAST_FADE) if age > 0 else 1.0


def _bounded(factor: float) -> float:
    """Two of them multiplied, by as many rows as there may be, are finite and more than 0."""
    return min(max(factor, 1e-30), 1e30)
