"""Which sequences prefill and which decode in the next batch, sharing which cells. Pure: no clock, no model, no I/O.

Decoding sequences come first, one token each, for a steady inter-token latency; what is left of the step goes to
chunked prefill, in the order of turns.py. A prompt shares its cached prefix (kv/prefixes.py) and prefills the rest.
Cells are counted ahead, so llama_decode is never asked for what the KV cache can't hold: first kept prefixes are
evicted, then sequences far ahead of their clients lose their cells, then the youngest sequence of the tenant with the
most is preempted and waits, first in the queue, to be computed again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from service.engine.kv.actions import Action, Cut
from service.engine.kv.prefixes import Kept
from service.engine.kv.sharing import Sharing
from service.engine.scheduling import shares
from service.engine.scheduling.admission import Admission
from service.engine.scheduling.batch import Batch, Limits, Row
from service.engine.scheduling.capacity import Capacity
from service.engine.scheduling.compaction import Compaction
from service.engine.scheduling.credits import Credits
from service.engine.scheduling.fairness import FairShareCounter
from service.engine.scheduling.tiles import is_apart
from service.engine.scheduling.turns import Turns
from service.engine.sequences.sequence import Sequence


class DraftSource(Protocol):
    """What proposes draft tokens, and knows how long a decode takes."""

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        """For each of these sequences, which are all that a step decodes, n_most at most together."""

    def seconds(self, n_rows: int) -> float:
        """Of a decode of n_rows."""


class Scheduler:
    """The sequences that wait and that run. `schedule` decides; the engine carries out and reports back."""

    def __init__(
        self,
        limits: Limits,
        sharing: Sharing,
        *,
        n_chunk: Callable[[int, int, float | None], int],
        most_kept_cells: int | None = None,
        drafts: DraftSource | None = None,
        tidies: bool = False,
    ) -> None:
        """n_chunk: prompt tokens that one step prefills, by the number of decoding sequences and of prompts; see
        PrefillChunker.size, also for the share.
        most_kept_cells: of kept prefixes alone; None: all that no sequence needs.
        drafts: None: no speculative decoding, and one tenant's streams may slow down another's.
        tidies: whether compaction for speed alone is allowed.
        """
        self.limits, self.sharing, self.cells = limits, sharing, sharing.cells
        self.served = FairShareCounter()
        self._capacity = Capacity(sharing, self.served)
        self._turns = Turns(self.served)
        self._admission = Admission(self._capacity, self._turns, limits.n_seq)
        self._credits, self.compaction = Credits(), Compaction(self.cells, for_speed=tidies)
        self._read: Counter[str] = Counter()  # prefill tokens in the last batch, with other tenants' streams
        self._n_chunk, self._most_kept_cells, self._drafts = n_chunk, most_kept_cells, drafts
        self._turn = 0

    def __repr__(self) -> str:
        cells = f"{self.n_cells_used}/{self.cells.n_cells} cells"
        return (
            f"<Scheduler {len(self.running)}/{self.limits.n_seq} running, {self._capacity.n_waiting} waiting, {cells}>"
        )

    @property
    def running(self) -> list[Sequence]:
        """The oldest first."""
        return self._capacity.running

    @property
    def resting(self) -> list[Sequence]:
        """They lost their cells, being far ahead of their clients."""
        return self._capacity.resting

    @property
    def waiting(self) -> list[Sequence]:
        """The queue, the next one first."""
        return self._admission.queue()

    @property
    def n_cells_used(self) -> int:
        """Cells that running sequences hold."""
        return self._capacity.n_cells_used

    @property
    def kept(self) -> list[Kept]:
        """The kept prefixes."""
        return self.sharing.kept

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit the KV cache when it is alone (the inbox ensures that)."""
        assert 0 < len(sequence.tokens) <= self.cells.n_cells
        self.served.join(sequence.tenant, [*self._capacity.tenants, *(s.tenant for s in self.resting)])
        (self._capacity.returned if sequence.is_owed else self._capacity.waiting).append(sequence)

    def remove(self, sequence: Sequence) -> list[Action]:
        """Remove a finished or cancelled sequence; its cells may be kept. Returns what to carry out at once."""
        if sequence.seq_id < 0:
            next(
                held for held in (self._capacity.waiting, self._capacity.returned, self.resting) if sequence in held
            ).remove(sequence)
            return []
        self._capacity.break_promise(sequence)
        self.running.remove(sequence)
        seq_id, sequence.seq_id = sequence.seq_id, -1
        actions = self.sharing.keep(sequence, seq_id)
        while self._most_kept_cells is not None and self.cells.n_live - self.n_cells_used > self._most_kept_cells:
            actions += self.sharing.evict()
        return actions

    def advance(self, row: Row, n_right: int = 0, *, at_end: bool = False) -> list[Action]:
        """A row was computed, and its sequence has the sampled tokens: n_right accepted drafts, and one more.
        at_end: no other's cells come after its own. Returns what to carry out before the next decode."""
        sequence = row.sequence
        n_cells = sequence.n_past + row.n_tokens
        sequence.n_past = min(sequence.n_past + row.n + n_right, len(sequence.tokens))
        self.cells.grow(sequence.seq_id, row.n_tokens)
        if n_read := min(row.n, sequence.n_unread):
            sequence.n_unread -= n_read
            self.served.read(sequence.tenant, n_read)
        if row.samples:
            if sequence.n_unread:
                self._capacity.break_promise(sequence)  # the rest of it was shared
            self.served.charge(sequence.tenant, 1 + n_right)
        if sequence.n_past == n_cells:
            return []
        return [Cut(sequence.seq_id, sequence.n_past, self.cells.cut(sequence.seq_id, sequence.n_past, at_end=at_end))]

    def schedule(self, now: float = 0.0, admit: bool = True) -> Batch:
        """The next batch; empty when there is nothing to do. Sequences it admits have their seq_id from now on.

        now: seconds, of the sequences' clock: one ahead of its client leaves the step, and its slot, to others.
        Without `admit` none is admitted: the one just preempted would only be preempted again.
        """
        batch = Batch()
        self._turn += 1
        self._capacity.call_back(now)
        self.sharing.go_on(self.running, batch.actions)
        ahead = sorted(self._capacity.ahead(now), key=lambda s: s.ahead_s(now))
        self._capacity.make_room(batch, ahead, now)
        ahead = [s for s in ahead if s.seq_id >= 0]
        if admit:
            self._admission.reclaim(batch, ahead, now)
        decoding = [s for s in self.running if s.is_decoding]
        due = self._in_turn([s for s in decoding if s not in ahead])
        batch.rows = [Row(s, 1, samples=True) for s in due]
        prefilling = [s for s in self.running if s.is_prefilling]
        n_free = max(0, self.limits.n_seq - len(self.running) + len(ahead))
        n_reading = len(prefilling) + min(self._capacity.n_waiting, n_free)
        room = min(self._n_chunk(len(due), n_reading, self._share(due, prefilling)), self.limits.n_batch - len(due))
        n_wanted = sum(s.n_pending for s in prefilling if s.prefix_source is None)
        while admit and (admitted := self._admission.admit(batch, ahead, now, room - n_wanted)) is not None:
            batch.admitted.append(admitted)
            prefilling.append(admitted)
            n_wanted += 0 if admitted.prefix_source else admitted.n_pending
        streaming = {s.tenant for s in due}
        self._read.clear()
        for s in self._turns.order(prefilling):
            delays_others = not streaming <= {s.tenant}
            if not delays_others or self._credits.may_read(s.tenant):
                n = self._add_chunk(batch, s, room)
                room -= n
                self._read[s.tenant] += n if delays_others else 0
        if len(batch.rows) > len(due):
            self._turns.pass_on()
        if len(batch.rows) == len(due) or is_apart(batch.n_tokens, self.limits.n_tile):
            self._add_drafts(batch, len(due))
        if not batch.rows:  # those ahead may use the idle time
            batch.rows = [Row(s, 1, samples=True) for s in self._in_turn([s for s in decoding if s.seq_id >= 0])]
        n_longest = max((r.sequence.n_pending for r in batch.rows if r.sequence.is_prefilling), default=0)
        if self.compaction.is_due(batch.n_tokens, n_longest, now):
            if self.compaction.is_frequent(now):
                # Prompts that are read once would have 12,000 kept cells copied twice a second: with half of them the
                # next compaction is due later, and copies less.
                batch.actions += self._evict_half()
            batch.copies = self.cells.tidy()
        return batch

    def took(self, step_s: float, decode_s: float) -> None:
        """The last batch took step_s; without its prefill it would have taken decode_s, as far as is known."""
        read_s = max(0.0, step_s - decode_s) / max(1, self._read.total())
        self._credits.took(step_s, {tenant: n * read_s for tenant, n in self._read.items()}, self._capacity.tenants)

    def give_way(self) -> tuple[list[Action], Sequence | None]:
        """The cache had less room than counted: evict half of the kept prefixes, or preempt the youngest running
        sequence, which is returned. No actions: there is nothing to evict or preempt."""
        if self.kept:
            return self._evict_half(), None
        batch = Batch()
        youngest = self._capacity.preempt_youngest(batch)
        return batch.actions, youngest

    def _evict_half(self) -> list[Action]:
        """Evict the half of the kept prefixes that was used less recently."""
        return [action for _ in range((len(self.kept) + 1) // 2) for action in self.sharing.evict()]

    def _in_turn(self, decoding: list[Sequence]) -> list[Sequence]:
        """As many of them as a batch may have, rotating among each tenant's."""
        seconds = self._drafts.seconds if self._drafts else None
        decoding = shares.choose(decoding, min(self.limits.n_seq, self.limits.n_batch), seconds)
        for s in decoding:
            s.turn = self._turn
        return decoding

    def _share(self, due: list[Sequence], prefilling: list[Sequence]) -> float | None:
        """Prefill time as a multiple of the running streams': each prefilling tenant gets as much as each decoding one.
        None: all are one tenant's. Without running streams the multiple has no meaning."""
        decoding = {s.tenant for s in due}
        reading = {s.tenant for s in (*prefilling, *self._capacity.waiting, *self._capacity.returned)}
        return len(reading) / max(1, len(decoding)) if len(decoding | reading) > 1 else None

    def _add_drafts(self, batch: Batch, n: int) -> None:
        """Add draft tokens to the first n rows, in cells that no sequence needs: nothing is evicted or preempted for
        them."""
        n_free = self.cells.n_spare - (self._capacity.n_promised() - self.cells.n_live)
        n_most = min(self.limits.most_rows - n, self.limits.n_batch - batch.n_tokens, n_free)
        if self._drafts and n and n_most > 0:
            drafts = self._drafts.draft([row.sequence for row in batch.rows[:n]], n_most)
            rows = zip(batch.rows[:n], drafts, strict=True)
            batch.rows[:n] = [replace(row, drafts=d) if d else row for row, d in rows]

    def _add_chunk(self, batch: Batch, sequence: Sequence, room: int) -> int:
        """Add a chunk of a prompt, of `room` tokens at most; returns its size."""
        if sequence.prefix_source is not None:
            return 0
        n = min(sequence.n_pending, room)
        if ends := [at for at in sequence.boundaries if at > sequence.n_past]:
            n = min(n, min(ends) - sequence.n_past)
        if sequence.n_unscored:  # each running sequence needs one of the outputs
            n_free = self.limits.n_outputs - len(self.running) - sum(row.n_scoring for row in batch.rows)
            n = min(n, 1 + n_free)
        if n > 0:
            samples, n_scoring = n == sequence.n_pending, sequence.n_scoring(n)
            batch.rows.append(Row(sequence, n, samples, n_scoring=n_scoring))
        return max(n, 0)
