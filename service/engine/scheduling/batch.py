"""One step's work as plain values: actions on cells, and the rows of each llama_decode."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.engine.kv.actions import Action
from service.engine.kv.cells import CellCopy
from service.engine.scheduling.tiles import AT_BEST, is_apart
from service.engine.sequences.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one batch."""

    n_seq: int  # sequences that decode in it
    n_batch: int  # tokens
    most_rows: int = 0  # of a decode with draft tokens
    n_tile: int | None = None  # see Batch.calls
    n_outputs: int = 1 << 31  # tokens with logits


@dataclass(frozen=True, slots=True)
class Row:
    """`n` pending tokens of a sequence, from its n_past on; `samples`: a token is sampled after the last of them.

    drafts: draft tokens, decoded after those (speculation/drafter.py).
    n_scoring: how many of its last tokens need logits for the prompt's log-probabilities.
    """

    sequence: Sequence
    n: int
    samples: bool
    drafts: tuple[int, ...] = ()
    n_scoring: int = 0

    @property
    def n_logits(self) -> int:
        """How many of its last tokens need logits."""
        return max(self.n_scoring, 1 + len(self.drafts) if self.samples else 0)

    @property
    def n_tokens(self) -> int:
        return self.n + len(self.drafts)


@dataclass(slots=True)
class Batch:
    """One step's work, and what comes before it: `actions` in their order, then `copies`, if any."""

    rows: list[Row] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    copies: list[CellCopy] | None = None  # compaction, before the rows
    preempted: list[Sequence] = field(default_factory=list)
    rested: list[Sequence] = field(default_factory=list)  # far ahead of their clients: their cells went to others
    admitted: list[Sequence] = field(default_factory=list)  # running from now on

    @property
    def n_tokens(self) -> int:
        """Tokens to decode, at most n_batch."""
        return sum(row.n_tokens for row in self.rows)

    def calls(self, n_tile: int | None) -> list[list[Row]]:
        """The rows of each llama_decode: one for all, or fewer than n_tile decoding sequences at a time, then prompts.

        From n_tile rows on (constants.N_TILE on a CPU) attention is computed in tiles of rows over every cell that
        one of them needs, so rows of many sequences scan each other's cells: 24 decoding ones and a chunk of 64 took
        1.02 s together, and 0.70 s apart.
        """
        if n_tile is None or not is_apart(self.n_tokens, n_tile):
            return [self.rows] if self.rows else []
        decoding = [row for row in self.rows if not row.sequence.is_prefilling]
        prefilling = [row for row in self.rows if row.sequence.is_prefilling]
        size = (n_tile - 1) // AT_BEST * AT_BEST or n_tile - 1
        calls = [decoding[i : i + size] for i in range(0, len(decoding), size)]
        return [*calls, prefilling] if prefilling else calls
