"""Which streams a step decodes, and which are admitted, where several tenants want slots and cells. Pure.

A step ends for all its streams at once, so one tenant's many would slow down the few of another. Max-min fairness
(Bertsekas and Gallager, "Data Networks", 6.5.2) divides a step's slots among tenants; and its time is bounded: however
many streams the largest tenant has, the step takes MOST_TIMES what the others' streams take without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from service.engine.sequences.sequence import Sequence

# Several tenants' prefill takes its share of a step on top (prefill_chunks.py): together less than twice the time. With
# 1.5 a key that fills the queue made the others' ITL p99 1.8 to 2.2 times, with 1.4 it was 1.6 to 1.9 (two cores).
MOST_TIMES = 1.4

Seconds = Callable[[int], float]  # what a decode of n rows takes
Held = Callable[[Iterable[Sequence]], int]  # cells that at least one of them holds


def share(n: int, present: Iterable[str]) -> int:
    """How many of n slots, or cells, each tenant is entitled to; present: the tenants of all that run or wait."""
    return max(1, n // max(1, len(set(present))))


def choose(decoding: list[Sequence], most: int, seconds: Seconds | None) -> list[Sequence]:
    """Those that the next step decodes, `most` of them at most, in the order given; seconds: None if unknown.

    Of each tenant's, those left out longest come first."""
    n = _n_rows(Counter(s.tenant for s in decoding), most, seconds)
    if n >= len(decoding):
        return decoding
    n_before: Counter[str] = Counter()
    ranks: dict[Sequence, tuple[int, int]] = {}
    for s in sorted(decoding, key=lambda s: s.turn):
        ranks[s] = n_before[s.tenant], s.turn
        n_before[s.tenant] += 1
    chosen = set(sorted(ranks, key=lambda s: ranks[s])[:n])
    return [s for s in decoding if s in chosen]


def victims(running: list[Sequence], held: Held, most: int, n_missing: int) -> list[Sequence]:
    """The youngest of tenants that hold more than `most` cells, enough to free the missing ones; [] if all are not.

    running: the oldest first, which is never preempted, so that some sequence ends; nor is one that was preempted
    before and has not reached n_safe tokens since, so that each makes progress."""
    found: list[Sequence] = []
    rest, n_held = list(running), held(running)
    for s in reversed(running[1:]):
        if s.n_safe <= len(s.tokens) and held([r for r in rest if r.tenant == s.tenant]) > most:
            rest.remove(s)
            found.append(s)
            if n_held - held(rest) >= n_missing:
                return found
    return []


def _n_rows(n_of: Counter[str], most: int, seconds: Seconds | None) -> int:
    """How many streams a step decodes, given each tenant's number: as many as do not slow down the others' too much."""
    n = min(n_of.total(), most)
    if len(n_of) < 2 or seconds is None:
        return n
    n_others = n_of.total() - max(n_of.values())
    most_s = MOST_TIMES * seconds(n_others)
    return next((k for k in range(n, n_others, -1) if seconds(k) <= most_s), min(n, n_others + 1))
