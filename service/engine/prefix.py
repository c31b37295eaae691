"""Which beginnings of prompts are in the KV cache, and who may share them. Pure: Context copies, the scheduler decides.

A sequence shares the longest beginning that it has in common with one that runs, is still being read, or has ended and
is kept. What sharing needs depends on the model's memory (Memory); where it can't be had the tokens are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .sequence import Sequence

# Tokens. A shorter beginning is read as fast as it is waited for, and is not worth a sequence id: a step of 8 rows
# takes as long as reading 30 tokens more in it.
WORTH = 32


class Memory(StrEnum):
    """What llama.cpp keeps of a sequence, and so from where it can be shared."""

    CUTTABLE = "cuttable"  # every token's cells: any beginning of any sequence
    WINDOWED = "windowed"  # in some layers the last n_swa tokens' cells: only where those before the cut are left
    STATE = "state"  # a recurrent state, of the last token alone: only from where it stands


class Source(Protocol):
    """Whatever has tokens in the cache: the first n_past of `tokens`, under `seq_id`."""

    seq_id: int
    tokens: list[int]

    @property
    def n_past(self) -> int: ...


@dataclass(slots=True, eq=False)
class Kept:
    """What a sequence left in the cache when it ended, or where it passed a boundary that others share."""

    seq_id: int
    tokens: list[int]
    scope: str

    @property
    def n_past(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Match:
    """The first n tokens are `source`'s; `ready`: they can be shared now, else once it has read so far."""

    source: Source
    n: int
    ready: bool


def n_common(a: list[int], b: list[int]) -> int:
    """Length of the longest common beginning. 32,000 tokens take 0.2 ms: slices are compared in C."""
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
    """The kept ones, least recently used first, and the search among all."""

    def __init__(self, memory: Memory, has_window: Callable[[int, int], bool] = lambda seq_id, n: True) -> None:
        """has_window(seq_id, n): whether a windowed sequence still has the cells that token n looks back at."""
        self.memory = memory
        self.kept: list[Kept] = []
        self.fresh: set[int] = set()  # ids whose cells were decided on, but are not there yet
        self._has_window = has_window

    def find(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[Match | None, int]:
        """The best source for a sequence that is about to be read, and the boundary (0: none) at which it should leave
        a copy: others had that much in common with it, but could not be shared from there.

        Its last token is always computed: its logits are needed. A source that is still being read is waited for if
        that saves WORTH tokens at least; those in `running` must not wait for this sequence themselves.
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
        if n >= source.n_past:  # where it stands its window is whole
            return source.n_past
        if self.memory is Memory.WINDOWED and (source.seq_id in self.fresh or not self._has_window(source.seq_id, n)):
            return 0
        return n

    def touch(self, source: Source) -> None:
        """It was used just now."""
        for at, kept in enumerate(self.kept):
            if kept is source:
                self.kept.append(self.kept.pop(at))
                return

    def keep(self, kept: Kept) -> list[Kept]:
        """Keep it; returns those that are superfluous now, it itself among them if it is: where any beginning can be
        shared, whoever is the beginning of another."""
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
        """Forget the least recently used one."""
        return self.kept.pop(0) if self.kept else None
