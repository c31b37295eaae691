"""Which KV cells which sequences hold, and which may be reused: counts only, Context carries out.

Sequences with a common prefix share its cells; each shared stretch is a CellRun with several holders. A sequence that
holds a run holds all runs before it, too, since sharing always begins at the first token.

Attention sums in the order of the cells, and the last bit of the sum depends on it. When a sequence ends, llama.cpp
gives its cells to other sequences' next tokens, in front of their older ones: 7 of 64 answers of the starter then
differed from those generated alone. Where text must be exact, freed cells are therefore kept as dead cells, until they
outnumber the live ones or are needed; then compaction copies the live ones together. It copies a token once on average.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Tokens: the prefill of 1,500 into the holes of 12,000 cells took 12.8 s instead of 7.
LEAST_SCATTERED = 256
COPIES = 16  # cells copied per prompt token at most: with a 0.5B model its prefill takes 4 ms, to copy a cell 0.013


@dataclass(slots=True, eq=False)
class CellRun:
    """n cells of consecutive tokens, and the sequence ids that hold them."""

    n: int
    holders: set[int]


@dataclass(frozen=True, slots=True)
class CellCopy:
    """How compaction copies a sequence: its first n_shared cells are `source`'s, which was copied before it."""

    seq_id: int
    source: int  # -1: it shares nothing
    n_shared: int
    n_own: int  # cells after those


class Cells:
    """The cells of one context: `n_live` that sequences hold, and `n_dead` that must not be used."""

    def __init__(self, n_cells: int, *, in_order: bool = False) -> None:
        self.n_cells, self.in_order = n_cells, in_order
        self.n_live = self.n_dead = 0
        self.n_holes = 0  # cells freed between others' since the last compaction; some may be in use again
        self._runs: dict[int, list[CellRun]] = {}

    def __repr__(self) -> str:
        return f"<Cells {self.n_live} live, {self.n_dead} dead of {self.n_cells}>"

    def held(self, seq_ids: Iterable[int]) -> int:
        """Cells that at least one of these sequences holds, each counted once."""
        runs = {id(run): run.n for seq_id in seq_ids for run in self._runs.get(seq_id, ())}
        return sum(runs.values())

    def grow(self, seq_id: int, n: int) -> None:
        """A sequence took n cells."""
        runs = self._runs.setdefault(seq_id, [])
        if runs and len(runs[-1].holders) == 1:
            runs[-1].n += n
        else:
            runs.append(CellRun(n, {seq_id}))
        self.n_live += n

    def share(self, source: int, seq_id: int, n: int) -> None:
        """A sequence without cells shares the first n of the source's."""
        assert seq_id not in self._runs
        shared = self._runs[source][: self._cut(source, n)]
        assert sum(run.n for run in shared) == n
        for run in shared:
            run.holders.add(seq_id)
        self._runs[seq_id] = shared

    @property
    def n_for_dead(self) -> int:
        """Cells reserved for dead ones, with in_order: with few, a compaction is due every few steps (46 ms for 13,000
        of the starter's)."""
        return self.n_cells // 8 if self.in_order else 0

    @property
    def n_spare(self) -> int:
        """Free cells for draft tokens, which may be cut at once. With in_order an eighth of the live cells' number is
        left free: filling the last few with dead cells causes a compaction every few steps."""
        return self.n_cells - self.n_live - self.n_dead - (self.n_live // 8 if self.in_order else 0)

    def cut(self, seq_id: int, n: int, *, at_end: bool) -> bool:
        """A sequence keeps its first n cells, n > 0, and frees the others. True: as dead cells; not so at_end, where no
        cell was taken since, so that the next tokens come after all others."""
        freed = self._release(seq_id, n)
        keep = self.in_order and not at_end
        self.n_dead += freed if keep else 0
        return keep

    def drop(self, seq_id: int) -> bool:
        """A sequence ends. True: cells that only it held must be kept as dead cells, since others are live; False:
        nothing is kept, and all dead cells are free."""
        self.n_dead += self._release(seq_id, 0)
        keep = self.in_order and self.n_live > 0
        if not keep:
            self.n_dead = 0
        return keep

    def must_tidy(self, n: int) -> bool:
        """Whether compaction is needed before n more cells are taken."""
        return self.n_dead > self.n_live or (self.n_dead > 0 and self.n_live + self.n_dead + n > self.n_cells)

    def should_tidy(self, n: int) -> bool:
        """Whether compaction pays before the prefill of n more prompt tokens: they would fill holes between other
        sequences' cells, and an attention tile then scans these, too (batch.Batch.calls)."""
        return n >= LEAST_SCATTERED and self.n_holes >= n // 4 and n * COPIES >= self.n_live

    def tidy(self) -> list[CellCopy]:
        """The copies of a compaction, in order; there are no dead cells afterwards."""
        copies: list[CellCopy] = []
        for seq_id, runs in self._runs.items():
            source, n_shared = -1, 0
            for run in runs:
                holder = next((copy.seq_id for copy in copies if copy.seq_id in run.holders), -1)
                if holder < 0:
                    break
                source, n_shared = holder, n_shared + run.n
            copies.append(CellCopy(seq_id, source, n_shared, sum(run.n for run in runs) - n_shared))
        self.n_dead = self.n_holes = 0
        return copies

    def _release(self, seq_id: int, n: int) -> int:
        """Take the cells after its n-th from a sequence; returns how many have no holder now."""
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
        """Split a run of this sequence at its n-th cell; returns how many runs there are up to there."""
        runs = self._runs[seq_id]
        for at, run in enumerate(runs):
            if n <= 0:
                return at
            if n < run.n:
                self._split(run, n)
                return at + 1
            n -= run.n
        return len(runs)

    def _split(self, run: CellRun, n: int) -> None:
        rest = CellRun(run.n - n, set(run.holders))
        run.n = n
        for holder in run.holders:
            runs = self._runs[holder]
            runs.insert(next(i for i, r in enumerate(runs) if r is run) + 1, rest)
