"""One step's work as plain values: what to do with cells, and the rows of each llama_decode."""

from __future__ import annotations

from dataclasses import dataclass, field

from .cells import Copy
from .sequence import Sequence

# ggml's kernels for repacked weights multiply four rows at once, and each one beyond those by itself: on a CPU 3 rows
# take half as long again as 4. Sixteen cost no more than 12 or 13 of them alone.
AT_ONCE, AT_BEST = 4, 16


@dataclass(frozen=True, slots=True)
class Row:
    """`n` pending tokens of a sequence, from its n_past on; `samples`: the last of them is followed by a new one.

    drafts: tokens that may follow, decoded as if they did (drafts.py).
    """

    sequence: Sequence
    n: int
    samples: bool
    drafts: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        return self.n + len(self.drafts)


@dataclass(frozen=True, slots=True)
class Forget:
    """Free a sequence id's cells. dead: keep those that it alone holds from use (cells.py)."""

    seq_id: int
    dead: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A sequence id without cells takes part in the first n of another's."""

    source: int
    seq_id: int
    n: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A sequence id keeps its first n cells. dead: keep the others from use (cells.py)."""

    seq_id: int
    n: int
    dead: bool


Action = Forget | Share | Cut


def is_apart(n_rows: int, n_tile: int | None) -> bool:
    """Whether decoding sequences and prompts of so many rows together are computed apart; see Batch.calls."""
    return n_tile is not None and n_rows >= n_tile


@dataclass(slots=True)
class Batch:
    """One step's work, and what comes before it: `actions` in their order, then `copies`, if any."""

    rows: list[Row] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    copies: list[Copy] | None = None  # copy all cells together first
    preempted: list[Sequence] = field(default_factory=list)
    rested: list[Sequence] = field(default_factory=list)  # far ahead of their readers: their cells went to others
    admitted: list[Sequence] = field(default_factory=list)  # running from now on

    @property
    def n_tokens(self) -> int:
        """Tokens to decode, at most n_batch."""
        return sum(row.n_tokens for row in self.rows)

    def calls(self, n_tile: int | None) -> list[list[Row]]:
        """The rows of each llama_decode: one for all, or fewer than n_tile decoding sequences at a time, then prompts.

        From n_tile rows on (context.N_TILE on a CPU) attention is computed in tiles of rows over every cell that
        one of them needs, so rows of many sequences cost each other's cells: 24 decoding ones and a slice of 64 took
        1.02 s together, and 0.70 s apart.
        """
        if n_tile is None or not is_apart(self.n_tokens, n_tile):
            return [self.rows] if self.rows else []
        decoding = [row for row in self.rows if not row.sequence.is_prefilling]
        prefilling = [row for row in self.rows if row.sequence.is_prefilling]
        size = (n_tile - 1) // AT_BEST * AT_BEST or n_tile - 1
        calls = [decoding[i : i + size] for i in range(0, len(decoding), size)]
        return [*calls, prefilling] if prefilling else calls
