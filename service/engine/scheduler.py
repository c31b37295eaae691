"""Which sequences prefill and which decode in the next batch, from whose cells. Pure: no clock, no model, no I/O.

Decoding sequences come first, one token each, so that running streams keep their rhythm; what is left of the step goes
to prompts, in slices, in the order of turns.py. A prompt shares what is known of it (prefix.py) and
reads the rest. Cells are counted ahead, so llama_decode is never asked for what the KV cache can't hold: first kept
prefixes go, then those of sequences that are far ahead of their readers, then the youngest sequence of the tenant with
the most gives its cells back and waits, first in line, to be computed again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from . import places
from .batch import Action, Batch, Cut, Row, is_apart
from .cells import Cells
from .credits import Credits
from .prefix import Kept, Match, Prefixes
from .sequence import Sequence
from .served import Served
from .sharing import Sharing
from .turns import Turns

# 16 cells a running sequence are kept free when another one is let in: without them the next few steps would
# preempt it again at once, and each preemption reads a whole prompt anew.
HEADROOM = 16
# Tokens that one which gave its cells to another tenant makes when it has them again, before it may have to once more:
# without any, short requests that come often would make a long one read its prompt for ever.
SAFE_TOKENS = 64
# Times what copying the cells together took, before it is done again for speed alone: a prompt that comes, leaves holes
# and goes, thirty times a second, would else have all streams wait for 8,000 cells each time (10 to 40 ms, starter).
TIDY_REST = 99.0
LEAST_REST_S = 2.0  # who will be due sooner keeps its cells: to read them again takes time, too


# What each of these sequences, which are all that a step computes, decodes beside its token: so many at most together.
Draft = Callable[[list[Sequence], int], list[tuple[int, ...]]]


class Scheduler:
    """The sequences that wait and that run. `schedule` decides; the engine carries out and reports back."""

    def __init__(
        self,
        *,
        n_seq: int,
        n_batch: int,
        cells: Cells,
        n_ids: int | None = None,
        prefixes: Prefixes | None = None,
        n_slice: Callable[[int, int, float | None], int] = lambda n_decoding, n_reading, share: 128,
        most_kept_cells: int | None = None,
        draft: Draft | None = None,
        most_rows: int = 0,
        n_tile: int | None = None,
        tidies: bool = False,
        seconds: places.Seconds | None = None,
    ) -> None:
        """n_ids: sequence ids, of those that run, rest or are kept; n_seq, if not given.
        prefixes: None shares nothing.
        most_kept_cells: of ended sequences alone; None: all that nobody else needs.
        n_slice: prompt tokens that one step reads beside so many decoding sequences, of so many prompts; see
        Slices.size for the share.
        draft: None decodes what is known only.
        most_rows: of a decode with drafts.
        n_tile: see Batch.calls.
        tidies: whether cells may be copied together where nothing but speed is won by it.
        seconds: of a decode of so many rows; None: nobody knows, and one tenant's may slow down another's.
        """
        self.n_seq, self.n_batch, self.cells = n_seq, n_batch, cells
        self.sharing = Sharing(cells, prefixes, n_ids or n_seq)
        self.running: list[Sequence] = []  # oldest first
        self.served = Served()
        self._turns = Turns(self.served)
        self._credits = Credits()
        self._read: Counter[str] = Counter()  # tokens of prompts in the last batch, beside other tenants' streams
        self._n_slice, self._most_kept_cells = n_slice, most_kept_cells
        self._draft, self._most_rows, self._n_tile = draft, min(most_rows, n_batch), n_tile
        self._tidies, self._seconds = tidies, seconds
        self._tidies_at = 0.0  # not for speed alone before this, of schedule's clock
        self._waiting: list[Sequence] = []  # by arrival
        self._returned: list[Sequence] = []  # preempted, to be let in before all others
        self.resting: list[Sequence] = []  # their cells went to others, for they are far ahead of their readers
        self._turn = 0

    def __repr__(self) -> str:
        cells = f"{self.n_cells_used}/{self.cells.n_cells} cells"
        return f"<Scheduler {len(self.running)}/{self.n_seq} running, {self._n_waiting} waiting, {cells}>"

    @property
    def waiting(self) -> list[Sequence]:
        """Who waits, the next one first."""
        return [*self._returned, *self.served.in_turn(self._waiting)]

    @property
    def _n_waiting(self) -> int:
        return len(self._waiting) + len(self._returned)

    @property
    def _tenants(self) -> set[str]:
        """Of all that run or wait."""
        return {s.tenant for s in (*self.running, *self._waiting, *self._returned)}

    @property
    def n_cells_used(self) -> int:
        """Cells that running sequences hold."""
        return self._held(self.running)

    def _held(self, sequences: Iterable[Sequence]) -> int:
        return self.cells.held(s.seq_id for s in sequences)

    @property
    def kept(self) -> list[Kept]:
        """Ended sequences whose cells are still known."""
        return self.sharing.kept

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit the KV cache when it is alone (the inbox sees to it)."""
        assert 0 < len(sequence.tokens) <= self.cells.n_cells
        self.served.join(sequence.tenant, [*self._tenants, *(s.tenant for s in self.resting)])
        (self._returned if sequence.is_owed else self._waiting).append(sequence)

    def remove(self, sequence: Sequence) -> list[Action]:
        """Forget a finished or cancelled sequence; what it computed may be kept. Returns what to do at once."""
        if sequence.seq_id < 0:
            next(held for held in (self._waiting, self._returned, self.resting) if sequence in held).remove(sequence)
            return []
        self._break_promise(sequence)
        self.running.remove(sequence)
        seq_id, sequence.seq_id = sequence.seq_id, -1
        actions = self.sharing.keep(sequence, seq_id)
        while self._most_kept_cells is not None and self.cells.n_live - self.n_cells_used > self._most_kept_cells:
            actions += self.sharing.evict()
        return actions

    def advance(self, row: Row, n_right: int = 0, *, at_end: bool = False) -> list[Action]:
        """A row was computed, and its sequence has what was drawn from it: n_right of its drafts, and one token more.
        at_end: no other's cells lie behind its own. Returns what to do before the next decode."""
        sequence = row.sequence
        n_cells = sequence.n_past + row.n_tokens
        sequence.n_past = min(sequence.n_past + row.n + n_right, len(sequence.tokens))
        self.cells.grow(sequence.seq_id, row.n_tokens)
        n_read = min(row.n, sequence.n_unread)
        sequence.n_unread -= n_read
        self.served.read(sequence.tenant, n_read)
        if row.samples:
            self._break_promise(sequence)  # the rest of it was shared
            self.served.charge(sequence.tenant, 1 + n_right)
        if sequence.n_past == n_cells:
            return []
        return [Cut(sequence.seq_id, sequence.n_past, self.cells.cut(sequence.seq_id, sequence.n_past, at_end=at_end))]

    def schedule(self, now: float = 0.0, admit: bool = True) -> Batch:
        """The next batch; empty when there is nothing to do. Sequences it admits have their seq_id from now on.

        now: seconds, of the sequences' clock: who is ahead of its reader lets others have the step, and its place.
        Without `admit` nobody is let in: the one that has just given way would only be in the way again.
        """
        batch = Batch()
        self._turn += 1
        self._call_back(now)
        self.sharing.go_on(self.running, batch)
        ahead = sorted(self._ahead(now), key=lambda s: s.ahead_s(now))
        self._make_room(batch, ahead, now)
        ahead = [s for s in ahead if s.seq_id >= 0]
        if admit:
            self._reclaim(batch, ahead, now)
        decoding = [s for s in self.running if s.is_decoding]
        due = self._in_turn([s for s in decoding if s not in ahead])
        batch.rows = [Row(s, 1, samples=True) for s in due]
        prefilling = [s for s in self.running if s.is_prefilling]
        n_reading = len(prefilling) + min(self._n_waiting, max(0, self.n_seq - len(self.running) + len(ahead)))
        room = min(self._n_slice(len(due), n_reading, self._share(due, prefilling)), self.n_batch - len(due))
        n_wanted = sum(s.n_pending for s in prefilling if s.leader is None)
        while admit and (admitted := self._admit(batch, ahead, now, room - n_wanted)) is not None:
            batch.admitted.append(admitted)
            prefilling.append(admitted)
            n_wanted += 0 if admitted.leader else admitted.n_pending
        streaming = {s.tenant for s in due}
        for s in self._turns.order(prefilling):
            if self._credits.may_read(s.tenant) or streaming <= {s.tenant}:
                room -= self._slice(batch, s, room)
        self._read = Counter[str]()
        for r in batch.rows[len(due) :]:
            self._read[r.sequence.tenant] += 0 if streaming <= {r.sequence.tenant} else r.n
        if len(batch.rows) > len(due):
            self._turns.pass_on()
        if len(batch.rows) == len(due) or is_apart(batch.n_tokens, self._n_tile):
            self._add_drafts(batch, len(due))
        if not batch.rows:  # nobody else wants the time
            batch.rows = [Row(s, 1, samples=True) for s in self._in_turn([s for s in decoding if s.seq_id >= 0])]
        n_longest = max((r.sequence.n_pending for r in batch.rows if r.sequence.is_prefilling), default=0)
        may_tidy = self._tidies and now >= self._tidies_at
        if self.cells.must_tidy(batch.n_tokens) or (may_tidy and self.cells.should_tidy(n_longest)):
            batch.copies = self.cells.tidy()
        return batch

    def took(self, step_s: float, decode_s: float) -> None:
        """The last batch was computed; without its prompts it would have taken decode_s, as far as is known."""
        read_s = max(0.0, step_s - decode_s) / max(1, self._read.total())
        self._credits.took(step_s, {tenant: n * read_s for tenant, n in self._read.items()}, self._tenants)

    def tidied(self, took_s: float, now: float) -> None:
        """A batch's copies were made."""
        self._tidies_at = now + TIDY_REST * took_s

    def give_way(self) -> tuple[list[Action], Sequence | None]:
        """The cache had less room than was counted: half of what is kept goes, or the youngest running sequence, which
        is returned. Nothing at all: there is nobody to give way."""
        if n := len(self.kept):
            return [action for _ in range((n + 1) // 2) for action in self.sharing.evict()], None
        batch = Batch()
        youngest = self._preempt_youngest(batch)
        return batch.actions, youngest

    def _in_turn(self, decoding: list[Sequence]) -> list[Sequence]:
        """As many of them as a batch may have, each tenant's in turn."""
        decoding = places.choose(decoding, min(self.n_seq, self.n_batch), self._seconds)
        for s in decoding:
            s.turn = self._turn
        return decoding

    def _share(self, due: list[Sequence], prefilling: list[Sequence]) -> float | None:
        """How much time prompts get for that of the running streams: tenants who read as much as those who decode,
        each. None: all are one tenant's."""
        decoding = {s.tenant for s in due}
        reading = {s.tenant for s in (*prefilling, *self._waiting, *self._returned)}
        return len(reading) / len(decoding) if decoding and len(decoding | reading) > 1 else None

    def _add_drafts(self, batch: Batch, n: int) -> None:
        """Decode drafts beside the known tokens of the first n rows, in cells that nobody needs: no one gives way to
        them."""
        n_free = self.cells.n_spare - (self._n_promised() - self.cells.n_live)
        n_most = min(self._most_rows - n, self.n_batch - batch.n_tokens, n_free)
        if self._draft is not None and n and n_most > 0:
            drafts = self._draft([row.sequence for row in batch.rows[:n]], n_most)
            rows = zip(batch.rows[:n], drafts, strict=True)
            batch.rows[:n] = [replace(row, drafts=d) if d else row for row, d in rows]

    def _slice(self, batch: Batch, sequence: Sequence, room: int) -> int:
        """Add as much of a prompt as there is room for; returns how much."""
        if sequence.leader is not None:
            return 0
        n = min(sequence.n_pending, room)
        if ends := [at for at in sequence.boundaries if at > sequence.n_past]:
            n = min(n, min(ends) - sequence.n_past)
        if n > 0:
            batch.rows.append(Row(sequence, n, samples=n == sequence.n_pending))
        return max(n, 0)

    # Who runs.

    def _admit(self, batch: Batch, ahead: list[Sequence], now: float, room: int) -> Sequence | None:
        """The next waiting sequence, running now; None when there is none or no room for it.

        ahead: of their readers, the farthest last: they need no place, and give their cells.
        room: tokens that the step could still read. Without any, those come in that cost it nothing, since they wait
        for a leader (who is told where to stop), and those whose turn it is before the ones that are being read.
        """
        is_full = len(self.running) - len(ahead) >= self.n_seq
        candidates = self._without_share() if is_full else self._next(room)
        sequence = next((s for s in candidates if self._has_turn(s, room)), None)
        if sequence is None:
            return None
        found = self._make_room_for(sequence, batch, ahead, now)
        if found is None:
            sequence = None if is_full else self._passer(sequence, room)
            found = self._make_room_for(sequence, batch, ahead, now) if sequence else None
            if sequence is None or found is None:
                return None
            sequence.passes = True
        self._let_in(sequence, found, batch)
        return sequence

    def _let_in(self, sequence: Sequence, found: tuple[Match | None, int], batch: Batch) -> None:
        """It runs from now on, and begins with what was found for it."""
        if sequence in self._returned:
            self._returned.remove(sequence)
        else:
            self._waiting.remove(sequence)
            match, _ = found
            sequence.n_unread = len(sequence.tokens) - (match.n if match and match.ready else 0)
            self.served.promise(sequence.tenant, sequence.n_unread)
        sequence.seq_id = self.sharing.free_ids.pop()
        self.sharing.take(sequence, *found, batch)
        self.running.append(sequence)

    def _reclaim(self, batch: Batch, ahead: list[Sequence], now: float) -> None:
        """Let in one whose tenant holds less than its share of the cells, where there is no room for it, in the place
        of the youngest of tenants that hold more."""
        tenants = self._tenants
        if len(tenants) < 2 or not self._n_waiting or self._can_rest(ahead, now):
            return
        most = places.share(self.cells.n_cells - self.cells.n_for_dead, tenants)
        held = {t: self._held(s for s in self.running if s.tenant == t) for t in tenants}
        waiting = (s for s in self.waiting if not s.is_drawing and held[s.tenant] + s.n_pending + HEADROOM <= most)
        if (sequence := next(waiting, None)) is None:
            return
        match, _ = self.sharing.match(sequence, self.running)
        n_missing = self._n_missing(sequence, match) - (self.cells.n_live - self.n_cells_used)
        victims = places.victims(self.running, self._held, most, n_missing) if n_missing > 0 else []
        for s in victims:
            s.n_safe = len(s.tokens) + SAFE_TOKENS
            self._preempt(s, batch)
        if victims and (found := self._make_room_for(sequence, batch, ahead, now)) is not None:
            self._let_in(sequence, found, batch)
            batch.admitted.append(sequence)

    def _has_turn(self, sequence: Sequence, room: int) -> bool:
        if room > 0:
            return True
        match, _ = self.sharing.match(sequence, self.running)
        return (match is not None and not match.ready) or self._is_before_those_read(sequence)

    def _make_room_for(
        self, sequence: Sequence, batch: Batch, ahead: list[Sequence], now: float
    ) -> tuple[Match | None, int] | None:
        """Let kept prefixes go, and who is far ahead, until there are an id and cells for it, if that is enough.

        Returns what it then shares (Sharing.match); None: there is no room."""
        match, boundary = self.sharing.match(sequence, self.running)
        while self._n_missing(sequence, match) > self.cells.n_live - self.n_cells_used:
            if not self._rest(batch, ahead, now):
                return None  # however many of those that are kept went
            match, boundary = self.sharing.match(sequence, self.running)
        while not self.sharing.free_ids or self._n_missing(sequence, match) > 0:
            if evicted := self.sharing.evict():
                batch.actions += evicted
            elif not self._rest(batch, ahead, now):
                return None
            match, boundary = self.sharing.match(sequence, self.running)
        return match, boundary

    def _passer(self, blocked: Sequence, room: int) -> Sequence | None:
        """One that waits behind this one, for which there is no room, and delays it by nothing: beside all who have
        passed it will find its own when the others have ended."""
        passed = [s for s in self.running if s.passes]
        n_kept_free = max(HEADROOM * (len(passed) + 2), self.cells.n_for_dead)
        n_left = self.cells.n_cells - n_kept_free - sum(len(s.tokens) for s in passed) - blocked.n_pending
        waiting = [s for s in self._waiting if s is not blocked and s.n_pending <= n_left]
        return next((s for s in self.served.in_turn(waiting) if self._has_turn(s, room)), None)

    def _next(self, room: int) -> list[Sequence]:
        """Who may come in: the next in the queue; without room also the one whose prompt would be read first."""
        if returned := [s for s in self._returned if not s.is_drawing]:
            return returned[:1]
        if not self._waiting:
            return []
        first = self.served.first(self._waiting)
        return [first] if room > 0 else [first, min(self._waiting, key=self._turns.rank)]

    def _without_share(self) -> list[Sequence]:
        """The next of those whose tenants hold less than their share of the places, none of which is free: they come
        in beside all who run, and each step is some others' turn."""
        held = Counter(s.tenant for s in self.running)
        n = places.share(self.n_seq, self._tenants)
        return [s for s in self.waiting if held[s.tenant] < n and not s.is_drawing][:1]

    def _is_before_those_read(self, sequence: Sequence) -> bool:
        being_read = [self._turns.rank(s) for s in self.running if s.is_prefilling and s.leader is None]
        return self._turns.rank(sequence) < min(being_read, default=(0, 0))

    def _make_room(self, batch: Batch, ahead: list[Sequence], now: float) -> None:
        """Let kept prefixes go, then those who are far ahead, then the youngest, until the running ones can be computed
        to their last token."""
        n_cells = self.cells.n_cells
        while self._n_promised() > n_cells - self.cells.n_for_dead and (evicted := self.sharing.evict()):
            batch.actions += evicted
        while self._n_promised() > n_cells:
            if not self._rest(batch, ahead, now) and self._preempt_youngest(batch) is None:
                return

    def _ahead(self, now: float) -> list[Sequence]:
        return [s for s in self.running if s.is_decoding and s.ahead_s(now) >= 0]

    def _rest(self, batch: Batch, ahead: list[Sequence], now: float) -> bool:
        """Take the cells of the one that is farthest ahead; False: nobody is far enough."""
        if not self._can_rest(ahead, now):
            return False
        sequence = ahead.pop()
        self.running.remove(sequence)
        self._take_cells(sequence, batch)
        batch.rested.append(sequence)
        self.resting.append(sequence)
        return True

    def _can_rest(self, ahead: list[Sequence], now: float) -> bool:
        return bool(ahead) and ahead[-1].ahead_s(now) >= LEAST_REST_S

    def _call_back(self, now: float) -> None:
        """Who gave its cells is let in again when it is due, or when there is nothing else to do."""
        is_idle = not self.running and not self._n_waiting
        due = [s for s in self.resting if is_idle or s.ahead_s(now) < 0]
        self.resting = [s for s in self.resting if s not in due]
        self._returned += due

    def _n_promised(self) -> int:
        """Cells in use, and those that the running sequences need to hold every token they have."""
        return self.cells.n_live + sum(s.n_pending - s.n_awaited for s in self.running)

    def _n_missing(self, sequence: Sequence, match: Match | None) -> int:
        """Cells that another sequence needs beyond those that are free, some left to the running ones, if there are
        any, and to the dead."""
        n_needed = sequence.n_pending - (match.n if match else 0)
        n_kept_free = max(HEADROOM * len(self.running), self.cells.n_for_dead) if self.running else 0
        return self._n_promised() + n_needed - (self.cells.n_cells - n_kept_free)

    def _preempt_youngest(self, batch: Batch) -> Sequence | None:
        """Put the youngest sequence of the tenant with the most cells back to the head of the queue, but never the
        oldest of all, so that something ends; None when it is the only one."""
        if len(self.running) < 2:
            return None
        of: defaultdict[str, list[Sequence]] = defaultdict(list)
        for s in self.running:
            of[s.tenant].append(s)
        tenant = max((s.tenant for s in self.running[1:]), key=lambda tenant: self._held(of[tenant]))
        self._preempt(of[tenant][-1], batch)
        return of[tenant][-1]

    def _preempt(self, sequence: Sequence, batch: Batch) -> None:
        self.running.remove(sequence)
        self._take_cells(sequence, batch)
        batch.preempted.append(sequence)
        self._returned.insert(0, sequence)

    def _break_promise(self, sequence: Sequence) -> None:
        """No more of its prompt will be read for the first time."""
        self.served.promise(sequence.tenant, -sequence.n_unread)
        sequence.n_unread = 0

    def _take_cells(self, sequence: Sequence, batch: Batch) -> None:
        self._break_promise(sequence)
        batch.actions.append(self.sharing.free(sequence.seq_id))
        sequence.seq_id, sequence.n_past = -1, 0
        sequence.leader, sequence.n_awaited = None, 0
        sequence.boundaries.clear()
