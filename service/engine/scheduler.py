"""Which sequences prefill and which decode in the next batch. Pure: no clock, no model, no I/O.

Decoding sequences come first, one token each, so that running streams keep their rhythm; what is left of the batch
goes to prompts, oldest first, in slices. Cells are counted ahead, so llama_decode is never asked for what the KV
cache can't hold: the youngest sequence gives its cells back and waits, first in line, to be computed again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .sequence import Sequence

# 16 cells a running sequence are kept free when another one is let in: without them the next few steps would
# preempt it again at once, and each preemption reads a whole prompt anew.
HEADROOM = 16


@dataclass(frozen=True, slots=True)
class Row:
    """`n` pending tokens of a sequence, from its n_past on; `samples`: the last of them is followed by a new one."""

    sequence: Sequence
    n: int
    samples: bool


@dataclass(slots=True)
class Batch:
    """One llama_decode's work, and what had to give way for it."""

    rows: list[Row] = field(default_factory=list)
    preempted: list[tuple[int, Sequence]] = field(default_factory=list)  # (the seq_id it had, the sequence)
    admitted: list[Sequence] = field(default_factory=list)  # running from now on

    @property
    def n_tokens(self) -> int:
        """Tokens to decode, at most n_batch."""
        return sum(row.n for row in self.rows)

    def calls(self, n_tile: int | None) -> list[list[Row]]:
        """The rows of each llama_decode: one for all, or fewer than n_tile decoding sequences at a time, then prompts.

        From n_tile rows on (ggml's GGML_FA_TILE_Q on a CPU) attention is computed in tiles of rows over every cell that
        one of them needs, so rows of many sequences cost each other's cells: 24 decoding ones and a slice of 64 took
        1.02 s together, and 0.70 s apart.
        """
        if n_tile is None or self.n_tokens < n_tile:
            return [self.rows] if self.rows else []
        decoding = [row for row in self.rows if not row.sequence.is_prefilling]
        prefilling = [row for row in self.rows if row.sequence.is_prefilling]
        size = n_tile - 1
        calls = [decoding[i : i + size] for i in range(0, len(decoding), size)]
        return [*calls, prefilling] if prefilling else calls


class Scheduler:
    """The sequences that wait and that run. `schedule` decides; the engine carries out and reports back."""

    def __init__(self, *, n_seq: int, n_batch: int, n_cells: int, n_slice: int) -> None:
        """n_slice: prompt tokens that one step reads while others decode (at most n_batch when none does)."""
        self.n_seq, self.n_batch, self.n_cells, self.n_slice = n_seq, n_batch, n_cells, n_slice
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self._free_ids = list(range(n_seq - 1, -1, -1))

    def __repr__(self) -> str:
        cells = f"{self.n_cells_used}/{self.n_cells} cells"
        return f"<Scheduler {len(self.running)}/{self.n_seq} running, {len(self.waiting)} waiting, {cells}>"

    @property
    def n_cells_used(self) -> int:
        """Cells that hold a token now."""
        return sum(s.n_past for s in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit the KV cache when it is alone (the inbox sees to it)."""
        assert 0 < len(sequence.tokens) <= self.n_cells
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> int:
        """Forget a finished or cancelled sequence. Returns the seq_id whose cells must be freed, -1: it had none."""
        if sequence.seq_id < 0:
            self.waiting.remove(sequence)
            return -1
        self.running.remove(sequence)
        return self._release(sequence)

    def schedule(self, admit: bool = True) -> Batch:
        """The next batch; empty when there is nothing to do. Sequences it admits have their seq_id from now on.

        Without `admit` nobody is let in: the one that has just given way would only be in the way again.
        """
        batch = Batch(preempted=self._preempt())
        decoding = [s for s in self.running if not s.is_prefilling]
        batch.rows = [Row(s, 1, samples=True) for s in decoding]
        room = self.n_batch - len(decoding)
        if decoding:
            room = min(room, self.n_slice)
        for prefilling in [s for s in self.running if s.is_prefilling]:
            room -= self._slice(batch, prefilling, room)
        while admit and room > 0 and (admitted := self._admit()) is not None:
            batch.admitted.append(admitted)
            room -= self._slice(batch, admitted, room)
        return batch

    def preempt_youngest(self) -> tuple[int, Sequence] | None:
        """Put the youngest running sequence back to the head of the queue; None when it is the only one."""
        if len(self.running) < 2:
            return None
        sequence = self.running.pop()
        seq_id = self._release(sequence)
        sequence.n_past = 0
        self.waiting.appendleft(sequence)
        return seq_id, sequence

    def _release(self, sequence: Sequence) -> int:
        seq_id, sequence.seq_id = sequence.seq_id, -1
        self._free_ids.append(seq_id)
        return seq_id

    def _preempt(self) -> list[tuple[int, Sequence]]:
        preempted = []
        while self._n_cells_promised() > self.n_cells and (youngest := self.preempt_youngest()):
            preempted.append(youngest)
        return preempted

    def _n_cells_promised(self) -> int:
        """Cells that the running sequences need to hold every token they have."""
        return sum(len(s.tokens) for s in self.running)

    def _admit(self) -> Sequence | None:
        """The next waiting sequence, running now; None when there is none or no room for it."""
        if not self.waiting or not self._free_ids:
            return None
        headroom = HEADROOM * len(self.running)
        if self._n_cells_promised() + len(self.waiting[0].tokens) + headroom > self.n_cells:
            return None
        sequence = self.waiting.popleft()
        sequence.seq_id = self._free_ids.pop()
        self.running.append(sequence)
        return sequence

    def _slice(self, batch: Batch, sequence: Sequence, room: int) -> int:
        """Add as much of a prompt as there is room for; returns how much."""
        n = min(sequence.n_pending, room)
        if n > 0:
            batch.rows.append(Row(sequence, n, samples=n == sequence.n_pending))
        return max(n, 0)
