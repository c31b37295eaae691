"""The prefix cache: prefixes in the KV cache, and which sequences share them. Pure: Scheduler decides, Context copies.

A sequence shares the longest prefix that it has in common with one that runs, is still being prefilled, or has ended
and is kept. What can be shared depends on the model's memory (Memory); other tokens are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from service.engine.kv.memory import Memory
from service.engine.sequences.sequence import Sequence

# Tokens. Prefilling a shorter prefix takes no longer than waiting for it, and it is not worth a sequence id: a step of
# 8 rows takes as long as prefilling 30 tokens more in it.
WORTH = 32


class Source(Protocol):
    """A sequence or kept prefix with tokens in the cache: the first n_past of `tokens`, under `seq_id`."""

    seq_id: int
    tokens: list[int]

    @property
    def n_past(self) -> int: ...


@dataclass(slots=True, eq=False)
class Kept:
    """A kept prefix: what a sequence left in the cache when it ended, or at a boundary that others share."""

    seq_id: int
    tokens: list[int]
    scope: str

    @property
    def n_past(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Match:
    """A hit: the first n tokens are `source`'s; `ready`: they can be shared now, else once it has prefilled them."""

    source: Source
    n: int
    ready: bool


def n_common(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix. 32,000 tokens take 0.2 ms: list slices are compared in C."""
    n, size = 0, 256
    while a[n : n + size] == b[n : n + size]:
        n += size
        if n >= len(a):
            return len(a)
    for x, y in zip(a[n : n + size], b[n : n + size], strict=False):
        if x != y:
            break
        n += 1
    return n


class Prefixes:
    """The kept prefixes, least recently used first, and the search among these and running sequences."""

    def __init__(self, memory: Memory, has_window: Callable[[int, int], bool] = lambda seq_id, n: True) -> None:
        """has_window(seq_id, n): whether a windowed sequence still has the cells that token n attends to."""
        self.memory = memory
        self.kept: list[Kept] = []
        self.fresh: set[int] = set()  # ids that cells were assigned to, but not yet copied for
        self._has_window = has_window

    def find(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Match | None, int]:
        """The best source for a sequence about to be prefilled, and the boundary (0: none) at which it should leave a
        copy: others have that prefix in common with it, but could not be shared from there.

        Its last token is always computed: its logits are needed. Waiting for a source that is still being prefilled
        must save WORTH tokens at least; those in `running` must not wait for this sequence themselves.
        """
        wanted = sequence.tokens[:-1]
        ready: Match | None = None
        pending: Match | None = None
        most = 0
        sources: list[Source] = [kept for kept in self.kept if kept.scope == sequence.scope]
        sources += [s for s in running if s.scope == sequence.scope and s.seq_id >= 0]
        for source in sources:
            n = n_common(wanted, source.tokens)
            most = max(most, n)
            n_now = self._n_ready(source, n)
            if n_now > (ready.n if ready else 0):
                ready = Match(source, n_now, True)
            if source.n_past < n > (pending.n if pending else 0):
                pending = Match(source, n, False)
        n_ready = ready.n if ready else 0
        best = pending if pending and pending.n >= n_ready + WORTH else ready
        boundary = most if self.memory is not Memory.CUTTABLE and most >= (best.n if best else 0) + WORTH else 0
        return best, boundary

    def _n_ready(self, source: Source, n: int) -> int:
        """How much of the n common tokens can be shared now."""
        if self.memory is Memory.STATE:
            return source.n_past if source.n_past <= n else 0
        if n >= source.n_past:  # at its end its window is complete
            return source.n_past
        if self.memory is Memory.WINDOWED and (source.seq_id in self.fresh or not self._has_window(source.seq_id, n)):
            return 0
        return n

    def touch(self, source: Source) -> None:
        """Mark as most recently used."""
        for at, kept in enumerate(self.kept):
            if kept is source:
                self.kept.append(self.kept.pop(at))
                return

    def keep(self, kept: Kept) -> list[Kept]:
        """Keep a prefix; returns those that are redundant now, possibly itself: where any prefix can be shared, each
        that is a prefix of another."""
        superfluous = []
        if self.memory is Memory.CUTTABLE:
            for other in [k for k in self.kept if k.scope == kept.scope]:
                n = n_common(kept.tokens, other.tokens)
                if n == len(kept.tokens):
                    self.touch(other)
                    return [kept]
                if n == len(other.tokens):
                    superfluous.append(other)
        elif same := [k for k in self.kept if k.scope == kept.scope and k.tokens == kept.tokens]:
            self.touch(same[0])
            return [kept]
        self.kept = [k for k in self.kept if k not in superfluous] + [kept]
        return superfluous

    def evict(self) -> Kept | None:
        """Drop and return the least recently used one."""
        return self.kept.pop(0) if self.kept else None
