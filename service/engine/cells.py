"""Which KV cells which sequences hold, and which may be used again: counts only, Context carries out.

Sequences with the same beginning share its cells; each shared stretch is a Run with several holders. Whoever holds a
run holds all those before it in its own sequence, since a share always begins at the first token.

Attention adds up in the order of the cells, and the last bit of the sum depends on it. When a sequence ends, llama.cpp
gives its cells to the next tokens of the others, before their own older ones: 7 of 64 answers of the starter then
differed from those given alone. Where text is to be exact, freed cells are therefore kept as dead ones, until they are
more than the living or are needed; then the living are copied together. A token is copied once on average.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Tokens: 1,500 that lay in the holes of 12,000 cells took 12.8 s to read instead of 7.
LEAST_SCATTERED = 256
COPIES = 16  # cells that are copied for one token: with a 0.5B model it takes 4 ms to read, and a cell 0.013 to copy


@dataclass(slots=True, eq=False)
class Run:
    """n cells of consecutive tokens, and the sequence ids that hold them."""

    n: int
    holders: set[int]


@dataclass(frozen=True, slots=True)
class Copy:
    """How to copy a sequence together: its first n_shared cells are `source`'s, which was copied before it."""

    seq_id: int
    source: int  # -1: it shares nothing
    n_shared: int
    n_own: int  # cells behind those


class Cells:
    """The cells of one context: `n_live` that sequences hold, and `n_dead` that are kept from use."""

    def __init__(self, n_cells: int, *, in_order: bool = False) -> None:
        self.n_cells, self.in_order = n_cells, in_order
        self.n_live = self.n_dead = 0
        self.n_holes = 0  # cells freed among others' since all were copied together; some are taken again by now
        self._runs: dict[int, list[Run]] = {}

    def __repr__(self) -> str:
        return f"<Cells {self.n_live} live, {self.n_dead} dead of {self.n_cells}>"

    def held(self, seq_ids: Iterable[int]) -> int:
        """Cells that one of these sequences holds, each counted once."""
        runs = {id(run): run.n for seq_id in seq_ids for run in self._runs.get(seq_id, ())}
        return sum(runs.values())

    def grow(self, seq_id: int, n: int) -> None:
        """A sequence took n cells."""
        runs = self._runs.setdefault(seq_id, [])
        if runs and len(runs[-1].holders) == 1:
            runs[-1].n += n
        else:
            runs.append(Run(n, {seq_id}))
        self.n_live += n

    def share(self, source: int, seq_id: int, n: int) -> None:
        """A sequence without cells holds the first n of another's, too."""
        assert seq_id not in self._runs
        shared = self._runs[source][: self._cut(source, n)]
        assert sum(run.n for run in shared) == n
        for run in shared:
            run.holders.add(seq_id)
        self._runs[seq_id] = shared

    @property
    def n_for_dead(self) -> int:
        """Cells best left free of the living, where there are dead ones: with few, all the living are copied together
        every few steps (46 ms for 13,000 of the starter's)."""
        return self.n_cells // 8 if self.in_order else 0

    @property
    def n_spare(self) -> int:
        """Free cells for tokens that may be cut at once. In order as many as an eighth of the living are left free: who
        fills the last few with dead ones makes all be copied every few steps."""
        return self.n_cells - self.n_live - self.n_dead - (self.n_live // 8 if self.in_order else 0)

    def cut(self, seq_id: int, n: int, *, at_end: bool) -> bool:
        """A sequence keeps its first n cells, n > 0; the others are as good as new. True: as dead cells. Not so at_end,
        where none was taken since: those that come next come behind all."""
        freed = self._release(seq_id, n)
        keep = self.in_order and not at_end
        self.n_dead += freed if keep else 0
        return keep

    def drop(self, seq_id: int) -> bool:
        """A sequence ends. True: what it alone held must be kept as dead cells, since others live; False: nothing is
        kept, and all dead cells are free."""
        self.n_dead += self._release(seq_id, 0)
        keep = self.in_order and self.n_live > 0
        if not keep:
            self.n_dead = 0
        return keep

    def must_tidy(self, n: int) -> bool:
        """Whether the dead must go before n more cells are taken."""
        return self.n_dead > self.n_live or (self.n_dead > 0 and self.n_live + self.n_dead + n > self.n_cells)

    def should_tidy(self, n: int) -> bool:
        """Whether it pays to copy all together before a prompt of n more tokens is read: it would fill holes among
        others' cells, and a tile's rows then pass over these, too (batch.Batch.calls)."""
        return n >= LEAST_SCATTERED and self.n_holes >= n // 4 and n * COPIES >= self.n_live

    def tidy(self) -> list[Copy]:
        """The order in which all are copied together; there are no dead cells then."""
        copies: list[Copy] = []
        for seq_id, runs in self._runs.items():
            source, n_shared = -1, 0
            for run in runs:
                holder = next((copy.seq_id for copy in copies if copy.seq_id in run.holders), -1)
                if holder < 0:
                    break
                source, n_shared = holder, n_shared + run.n
            copies.append(Copy(seq_id, source, n_shared, sum(run.n for run in runs) - n_shared))
        self.n_dead = self.n_holes = 0
        return copies

    def _release(self, seq_id: int, n: int) -> int:
        """Take what is behind its n-th cell from a sequence; returns how many cells nobody holds now."""
        runs = self._runs.get(seq_id)
        if not runs:
            return 0
        at = self._cut(seq_id, n)
        for run in runs[at:]:
            run.holders.discard(seq_id)
        freed = sum(run.n for run in runs[at:] if not run.holders)
        del runs[at:]
        if not runs:
            del self._runs[seq_id]
        self.n_live -= freed
        self.n_holes = self.n_holes + freed if self.n_live else 0
        return freed

    def _cut(self, seq_id: int, n: int) -> int:
        """Make a run of this sequence end at its n-th cell; returns how many runs there are up to there."""
        runs = self._runs[seq_id]
        for at, run in enumerate(runs):
            if n <= 0:
                return at
            if n < run.n:
                self._split(run, n)
                return at + 1
            n -= run.n
        return len(runs)

    def _split(self, run: Run, n: int) -> None:
        rest = Run(run.n - n, set(run.holders))
        run.n = n
        for holder in run.holders:
            runs = self._runs[holder]
            runs.insert(next(i for i, r in enumerate(runs) if r is run) + 1, rest)
