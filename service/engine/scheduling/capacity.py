"""Which sequences run, wait and rest, and how room is made in the KV cache: by evicting, resting and preempting. Pure.

First kept prefixes are evicted, then sequences far ahead of their clients give up their cells, then the youngest
sequence of the tenant with the most is preempted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from service.engine.kv.prefixes import Match
from service.engine.kv.sharing import Sharing
from service.engine.scheduling.batch import Batch
from service.engine.scheduling.fairness import FairShareCounter
from service.engine.sequences.sequence import Sequence

# 16 cells for each running sequence are kept free when another one is admitted: without them the next few steps would
# preempt it again at once, and each preemption costs the prefill of a whole prompt.
HEADROOM = 16
LEAST_REST_S = 2.0  # a sequence due sooner keeps its cells: their prefill takes time, too


class Capacity:
    """The lists of sequences, and the cells that they share. Its actions go to a batch."""

    def __init__(self, sharing: Sharing, served: FairShareCounter) -> None:
        self.cells, self.sharing, self.served = sharing.cells, sharing, served
        self.running: list[Sequence] = []  # oldest first
        self.waiting: list[Sequence] = []  # by arrival
        self.returned: list[Sequence] = []  # preempted, to be admitted before all others
        self.resting: list[Sequence] = []  # they lost their cells, being far ahead of their clients

    def __repr__(self) -> str:
        cells = f"{self.n_cells_used}/{self.cells.n_cells} cells"
        return f"<Capacity {len(self.running)} running, {self.n_waiting} waiting, {len(self.resting)} resting, {cells}>"

    @property
    def tenants(self) -> set[str]:
        """Those of all sequences that run or wait."""
        return {s.tenant for s in (*self.running, *self.waiting, *self.returned)}

    @property
    def n_waiting(self) -> int:
        return len(self.waiting) + len(self.returned)

    @property
    def n_cells_used(self) -> int:
        """Cells that running sequences hold."""
        return self.held(self.running)

    def held(self, sequences: Iterable[Sequence]) -> int:
        return self.cells.held(s.seq_id for s in sequences)

    def n_promised(self) -> int:
        """Cells in use, and those that the running sequences need to hold every token they have."""
        return self.cells.n_live + sum(s.n_pending - s.n_awaited for s in self.running)

    def n_missing(self, sequence: Sequence, match: Match | None) -> int:
        """Cells that another sequence needs beyond those that are free, less a reserve for running sequences and dead
        cells, if any run."""
        n_needed = sequence.n_pending - (match.n if match else 0)
        n_kept_free = max(HEADROOM * len(self.running), self.cells.n_for_dead) if self.running else 0
        return self.n_promised() + n_needed - (self.cells.n_cells - n_kept_free)

    def make_room(self, batch: Batch, ahead: list[Sequence], now: float) -> None:
        """Evict kept prefixes, then sequences far ahead, then preempt the youngest, until there are cells for all
        tokens that the running ones have."""
        n_cells = self.cells.n_cells
        while self.n_promised() > n_cells - self.cells.n_for_dead and (evicted := self.sharing.evict()):
            batch.actions += evicted
        while self.n_promised() > n_cells:
            if not self.rest(batch, ahead, now) and self.preempt_youngest(batch) is None:
                return

    def make_room_for(
        self, sequence: Sequence, batch: Batch, ahead: list[Sequence], now: float
    ) -> tuple[Match | None, int] | None:
        """Evict kept prefixes, and sequences far ahead, until there are an id and cells for it, if that is enough.

        Returns the prefix it then shares (Sharing.match); None: there is no room."""
        match, boundary = self.sharing.match(sequence, self.running)
        while self.n_missing(sequence, match) > self.cells.n_live - self.n_cells_used:
            if not self.rest(batch, ahead, now):
                return None  # even with all kept prefixes evicted
            match, boundary = self.sharing.match(sequence, self.running)
        while not self.sharing.free_ids or self.n_missing(sequence, match) > 0:
            if evicted := self.sharing.evict():
                batch.actions += evicted
            elif not self.rest(batch, ahead, now):
                return None
            match, boundary = self.sharing.match(sequence, self.running)
        return match, boundary

    def ahead(self, now: float) -> list[Sequence]:
        return [s for s in self.running if s.is_decoding and s.ahead_s(now) >= 0]

    def can_rest(self, ahead: list[Sequence], now: float) -> bool:
        return bool(ahead) and ahead[-1].ahead_s(now) >= LEAST_REST_S

    def rest(self, batch: Batch, ahead: list[Sequence], now: float) -> bool:
        """Take the cells of the one that is farthest ahead; False: none is far enough."""
        if not self.can_rest(ahead, now):
            return False
        sequence = ahead.pop()
        self.running.remove(sequence)
        self._take_cells(sequence, batch)
        batch.rested.append(sequence)
        self.resting.append(sequence)
        return True

    def call_back(self, now: float) -> None:
        """Queue resting sequences again when they are due, or when there is nothing else to do."""
        is_idle = not self.running and not self.n_waiting
        due = [s for s in self.resting if is_idle or s.ahead_s(now) < 0]
        self.resting = [s for s in self.resting if s not in due]
        self.returned += due

    def preempt(self, sequence: Sequence, batch: Batch) -> None:
        self.running.remove(sequence)
        self._take_cells(sequence, batch)
        batch.preempted.append(sequence)
        self.returned.insert(0, sequence)

    def preempt_youngest(self, batch: Batch) -> Sequence | None:
        """Preempt the youngest sequence of the tenant with the most cells, to the head of the queue, but never the
        oldest of all, so that some sequence ends; None when it is the only one."""
        if len(self.running) < 2:
            return None
        of: defaultdict[str, list[Sequence]] = defaultdict(list)
        for s in self.running:
            of[s.tenant].append(s)
        tenant = max((s.tenant for s in self.running[1:]), key=lambda tenant: self.held(of[tenant]))
        self.preempt(of[tenant][-1], batch)
        return of[tenant][-1]

    def break_promise(self, sequence: Sequence) -> None:
        """Withdraw its promised tokens: no more of its prompt will be prefilled for the first time."""
        self.served.promise(sequence.tenant, -sequence.n_unread)
        sequence.n_unread = 0

    def _take_cells(self, sequence: Sequence, batch: Batch) -> None:
        self.break_promise(sequence)
        batch.actions.append(self.sharing.free(sequence.seq_id))
        sequence.seq_id, sequence.n_past = -1, 0
        sequence.prefix_source, sequence.n_awaited = None, 0
        sequence.boundaries.clear()
