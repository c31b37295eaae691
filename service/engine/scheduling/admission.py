"""Which waiting sequence runs next: by fairness, within its tenant's share of slots and cells. Pure."""

from __future__ import annotations

from collections import Counter

from service.engine.kv.prefixes import Match
from service.engine.scheduling import shares
from service.engine.scheduling.batch import Batch
from service.engine.scheduling.capacity import HEADROOM, Capacity
from service.engine.scheduling.turns import Turns
from service.engine.sequences.sequence import Sequence

# Tokens that a sequence preempted for another tenant generates after its return, before it may be preempted for one
# again: without any, frequent short requests would make a long one prefill its prompt forever.
SAFE_TOKENS = 64


class Admission:
    """Moves sequences from the queue to those that run."""

    def __init__(self, capacity: Capacity, turns: Turns, n_seq: int) -> None:
        """n_seq: slots."""
        self._capacity, self._turns, self._n_seq = capacity, turns, n_seq

    def __repr__(self) -> str:
        return f"<Admission to {self._n_seq} slots of {self._capacity!r}>"

    def queue(self) -> list[Sequence]:
        """The queue, the next one first."""
        return [*self._capacity.returned, *self._capacity.served.in_turn(self._capacity.waiting)]

    def admit(self, batch: Batch, ahead: list[Sequence], now: float, room: int) -> Sequence | None:
        """The next waiting sequence, running now; None when there is none or no room for it.

        ahead: of their clients, the farthest last: they need no slot, and give up their cells.
        room: tokens that the step could still prefill. Without any, those are admitted that cost it nothing, since they
        wait for a prefix source (which gets the boundary), and those that rank before the ones being prefilled.
        """
        is_full = len(self._capacity.running) - len(ahead) >= self._n_seq
        candidates = self._without_share() if is_full else self._next(room)
        sequence = next((s for s in candidates if self._has_turn(s, room)), None)
        if sequence is None:
            return None
        found = self._capacity.make_room_for(sequence, batch, ahead, now)
        if found is None:
            sequence = None if is_full else self._passer(sequence, room)
            found = self._capacity.make_room_for(sequence, batch, ahead, now) if sequence else None
            if sequence is None or found is None:
                return None
            sequence.passes = True
        self._let_in(sequence, found, batch)
        return sequence

    def _let_in(self, sequence: Sequence, found: tuple[Match | None, int], batch: Batch) -> None:
        """It runs from now on, and begins with the prefix found for it."""
        if sequence in self._capacity.returned:
            self._capacity.returned.remove(sequence)
        else:
            self._capacity.waiting.remove(sequence)
            match, _ = found
            sequence.n_unread = len(sequence.tokens) - (match.n if match and match.ready else 0)
            self._capacity.served.promise(sequence.tenant, sequence.n_unread)
        sequence.seq_id = self._capacity.sharing.free_ids.pop()
        self._capacity.sharing.take(sequence, *found, batch.actions)
        self._capacity.running.append(sequence)

    def reclaim(self, batch: Batch, ahead: list[Sequence], now: float) -> None:
        """Admit one of a tenant with less than its share of the cells, where there is no room for it, by preempting the
        youngest of tenants that hold more."""
        tenants = self._capacity.tenants
        if len(tenants) < 2 or not self._capacity.n_waiting or self._capacity.can_rest(ahead, now):
            return
        most = shares.share(self._capacity.cells.n_cells - self._capacity.cells.n_for_dead, tenants)
        held = {t: self._capacity.held(s for s in self._capacity.running if s.tenant == t) for t in tenants}
        waiting = (s for s in self.queue() if not s.is_drawing and held[s.tenant] + s.n_pending + HEADROOM <= most)
        if (sequence := next(waiting, None)) is None:
            return
        match, _ = self._capacity.sharing.match(sequence, self._capacity.running)
        n_missing = self._capacity.n_missing(sequence, match) - (
            self._capacity.cells.n_live - self._capacity.n_cells_used
        )
        victims = shares.victims(self._capacity.running, self._capacity.held, most, n_missing) if n_missing > 0 else []
        for s in victims:
            s.n_safe = len(s.tokens) + SAFE_TOKENS
            self._capacity.preempt(s, batch)
        if victims and (found := self._capacity.make_room_for(sequence, batch, ahead, now)) is not None:
            self._let_in(sequence, found, batch)
            batch.admitted.append(sequence)

    def _has_turn(self, sequence: Sequence, room: int) -> bool:
        if room > 0:
            return True
        match, _ = self._capacity.sharing.match(sequence, self._capacity.running)
        return (match is not None and not match.ready) or self._is_before_those_read(sequence)

    def _passer(self, blocked: Sequence, room: int) -> Sequence | None:
        """A sequence behind `blocked`, for which there is no room, that does not delay it: `blocked` still fits
        together with all that have passed it, once the others have ended."""
        passed = [s for s in self._capacity.running if s.passes]
        n_kept_free = max(HEADROOM * (len(passed) + 2), self._capacity.cells.n_for_dead)
        n_left = self._capacity.cells.n_cells - n_kept_free - sum(len(s.tokens) for s in passed) - blocked.n_pending
        waiting = [s for s in self._capacity.waiting if s is not blocked and s.n_pending <= n_left]
        return next((s for s in self._capacity.served.in_turn(waiting) if self._has_turn(s, room)), None)

    def _next(self, room: int) -> list[Sequence]:
        """Candidates for admission: the next in the queue; without room also the one that would be prefilled first."""
        if returned := [s for s in self._capacity.returned if not s.is_drawing]:
            return returned[:1]
        if not self._capacity.waiting:
            return []
        first = self._capacity.served.first(self._capacity.waiting)
        return [first] if room > 0 else [first, min(self._capacity.waiting, key=self._turns.rank)]

    def _without_share(self) -> list[Sequence]:
        """The next of a tenant with less than its share of the slots, none of which is free: it is admitted on top of
        all that run, which then take turns in the steps."""
        held = Counter(s.tenant for s in self._capacity.running)
        n = shares.share(self._n_seq, self._capacity.tenants)
        return [s for s in self.queue() if held[s.tenant] < n and not s.is_drawing][:1]

    def _is_before_those_read(self, sequence: Sequence) -> bool:
        being_read = [
            self._turns.rank(s) for s in self._capacity.running if s.is_prefilling and s.prefix_source is None
        ]
        return self._turns.rank(sequence) < min(being_read, default=(0, 0))
