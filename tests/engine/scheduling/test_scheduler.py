"""The scheduler alone: a state machine of arrivals, cancels and ends checks the invariants of every batch."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from service.engine.kv.actions import Action, Cut, Forget, Share
from service.engine.kv.cells import Cells
from service.engine.kv.memory import Memory
from service.engine.kv.prefixes import Prefixes
from service.engine.kv.sharing import Sharing
from service.engine.scheduling.batch import Batch, Limits, Row
from service.engine.scheduling.capacity import HEADROOM, LEAST_REST_S
from service.engine.scheduling.compaction import REST
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scheduling.tiles import is_apart
from service.engine.sequences.sequence import AHEAD_S, AHEAD_TOKENS, Sequence
from service.engine.sequences.text import Text

N_WINDOW = 5


def sequence(
    id: str,
    n_prompt: int,
    max_tokens: int = 10,
    *,
    tokens: list[int] | None = None,
    tenant: str = "",
    pace: float | None = None,
) -> Sequence:
    tokens = [1] * n_prompt if tokens is None else tokens
    return Sequence(
        id=id,
        tokens=tokens,
        n_prompt=len(tokens),
        max_tokens=max_tokens,
        text=Text(),
        tenant=tenant,
        scope=tenant,
        pace=pace,
    )


def scheduler(
    *,
    n_seq: int,
    n_batch: int,
    n_cells: int,
    n_chunk: int = 1000,
    n_ids: int | None = None,
    memory: Memory | None = None,
) -> Scheduler:
    prefixes = Prefixes(memory, lambda seq_id, n: False) if memory else None
    return Scheduler(
        Limits(n_seq=n_seq, n_batch=n_batch),
        Sharing(Cells(n_cells), prefixes, n_ids or n_seq),
        n_chunk=lambda n_decoding, *_: n_chunk if n_decoding else n_batch,
    )


class Cache:
    """What llama.cpp would hold for each sequence id; it asserts that each action is possible."""

    def __init__(self, memory: Memory, n_cells: int) -> None:
        self.memory, self.n_cells = memory, n_cells
        self.tokens: dict[int, list[int]] = {}
        self.cells: dict[int, list[int]] = {}  # numbers of the cells; equal ones are shared
        self.first: dict[int, int] = {}  # the first token with cells left in all layers of a windowed sequence
        self._n = 0

    def has_window(self, seq_id: int, n: int) -> bool:
        return seq_id in self.tokens and self.first[seq_id] <= max(0, n - N_WINDOW)

    def act(self, action: Action) -> None:
        if isinstance(action, Cut):
            assert self.memory is Memory.CUTTABLE and 0 < action.n < len(self.tokens[action.seq_id])
            del self.tokens[action.seq_id][action.n :]
            del self.cells[action.seq_id][action.n :]
            return
        if isinstance(action, Forget):
            for held in (self.tokens, self.cells, self.first):
                held.pop(action.seq_id, None)
            return
        source, n = self.tokens[action.source], action.n
        assert action.seq_id not in self.tokens, "only an id without cells shares another's"
        assert 0 < n <= len(source)
        if self.memory is Memory.STATE:
            assert n == len(source), "a state is shared only at its current position"
        if self.memory is Memory.WINDOWED:
            assert self.has_window(action.source, n), "only a complete window is shared"
        self.tokens[action.seq_id] = source[:n]
        self.cells[action.seq_id] = self.cells[action.source][:n]
        self.first[action.seq_id] = self.first[action.source]

    def compute(self, seq_id: int, position: int, tokens: list[int]) -> None:
        held = self.tokens.setdefault(seq_id, [])
        assert position == len(held), "no gap, no token twice, none of the id's earlier sequence"
        held += tokens
        self.cells.setdefault(seq_id, []).extend(range(self._n, self._n + len(tokens)))
        self._n += len(tokens)
        # As early as llama.cpp may: no later token attends to them.
        self.first[seq_id] = max(self.first.get(seq_id, 0), len(held) - N_WINDOW)
        assert self.n_used <= self.n_cells

    @property
    def n_used(self) -> int:
        return len({cell for cells in self.cells.values() for cell in cells})


def carry_out(scheduler: Scheduler, now: float = 0.0) -> Batch:
    """One step as the engine does it: decode, a token for each row that samples, finished sequences removed."""
    batch = scheduler.schedule(now)
    for row in batch.rows:
        s = row.sequence
        scheduler.advance(row)
        if row.samples:
            s.tokens.append(2)
            s.first_token_at = s.first_token_at or now or 1e-9
            if s.n_generated >= s.max_tokens:
                scheduler.remove(s)
    return batch


def rows(batch: Batch) -> list[tuple[str, int, bool]]:
    return [(r.sequence.id, r.n, r.samples) for r in batch.rows]


class Machine(RuleBasedStateMachine):
    """Any sizes, any order of events; `live` is every sequence that has not ended, in the order of arrival."""

    scheduler: Scheduler
    live: list[Sequence]

    @initialize(
        n_seq=st.integers(1, 6),
        n_more=st.integers(0, 4),
        n_batch=st.integers(1, 24),
        n_cells=st.integers(4, 80),
        n_chunk=st.integers(1, 12),
        memory=st.sampled_from([None, *Memory]),
        most_rows=st.integers(1, 30),
        n_tile=st.sampled_from([None, 1, 4, 12]),
        power=st.sampled_from([None, 0.0, 0.5, 1.0]),
        seed=st.integers(0, 9),
    )
    def begin(
        self,
        n_seq: int,
        n_more: int,
        n_batch: int,
        n_cells: int,
        n_chunk: int,
        memory: Memory | None,
        most_rows: int,
        n_tile: int | None,
        power: float | None,
        seed: int,
    ) -> None:
        self.cache = Cache(memory or Memory.CUTTABLE, n_cells)
        self.n_chunk, self.n_ids, self.n_cells, self.n_batch = n_chunk, n_seq + n_more, n_cells, n_batch
        self.can_cut, self.power = memory in (None, Memory.CUTTABLE), power or 0.0
        prefixes = None if memory is None else Prefixes(memory, self.cache.has_window)
        self.scheduler = Scheduler(
            Limits(n_seq=n_seq, n_batch=n_batch, most_rows=most_rows, n_tile=n_tile),
            Sharing(Cells(n_cells), prefixes, self.n_ids),
            n_chunk=lambda n_decoding, *_: n_chunk if n_decoding else n_batch,
            drafts=None if power is None else self,
        )
        self.is_shared = power is not None  # tenants share a step's time
        self.most_rows, self.n_tile, self.random = most_rows, n_tile, random.Random(seed)
        self.live, self.n_made, self.now = [], 0, 1.0
        self.answers: Counter[str] = Counter()
        self.begun: set[str] = set()  # were admitted at least once
        words = random.Random(seed)
        self.stems = [[words.randrange(9) for _ in range(79)] for _ in range(3)]

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        """Right tokens, then wrong ones, n_most at most together; none if the memory can't be cut."""
        assert n_most > 0
        if not self.can_cut:
            return [()] * len(sequences)
        drafts = []
        for s in sequences:
            n = self.random.randint(0, max(0, min(n_most, s.max_tokens - s.n_generated - 1)))
            n_right = self.random.randint(0, n)
            drafts.append((200 + int(s.id),) * n_right + (-1,) * (n - n_right))
            n_most -= n
        return drafts

    def seconds(self, n_rows: int) -> float:
        return float(n_rows**self.power)

    @rule(
        stem=st.integers(0, 2),
        n_stem=st.integers(0, 60),
        n_own=st.integers(1, 79),
        max_tokens=st.integers(1, 40),
        tenant=st.sampled_from(["a", "b"]),
        pace=st.sampled_from([None, None, 1.0, 5.0]),
    )
    def arrive(self, stem: int, n_stem: int, n_own: int, max_tokens: int, tenant: str, pace: float | None) -> None:
        """Within the inbox's bounds: prompt and answer together fit the cache. Many prompts share a prefix."""
        tokens = [*self.stems[stem][:n_stem], *(100 + self.n_made for _ in range(n_own))][: self.n_cells - 1]
        most = min(max_tokens, self.n_cells - len(tokens))
        s = sequence(str(self.n_made), 0, most, tokens=tokens, tenant=tenant, pace=pace)
        self.n_made += 1
        self.scheduler.add(s)
        self.live.append(s)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.live)))

    def end(self, s: Sequence) -> None:
        for action in self.scheduler.remove(s):
            self.cache.act(action)
        assert s.seq_id == -1
        self.live.remove(s)

    @rule(end=st.integers(0, 7), later_s=st.sampled_from([0.0, 0.1, 2.0]))
    def step(self, end: int, later_s: float) -> None:
        """One engine step, in which the sequences with a number divisible by `end` sample their end token."""
        sch = self.scheduler
        self.now += later_s
        waiting_before, resting_before = sch.waiting, sch.resting
        batch = sch.schedule(self.now)
        waiting_before = [s for s in waiting_before if s not in resting_before]
        called_back = [s for s in resting_before if s not in sch.resting]
        for action in batch.actions:
            self.cache.act(action)
        assert all(
            s.seq_id == -1 and s.n_past == 0 and s in sch.waiting for s in batch.preempted if s not in sch.running
        )
        assert all(s.seq_id == -1 and s.n_past == 0 for s in batch.rested if s in sch.resting)
        self.check_admitted(batch, called_back, waiting_before)
        self.check_batch(batch)
        for row in batch.rows:
            s = row.sequence
            self.cache.compute(s.seq_id, s.n_past, [*s.tokens[s.n_past : s.n_past + row.n], *row.drafts])
            n_right = row.drafts.count(200 + int(s.id))
            ends = bool(end) and int(s.id) % end == 0
            if row.samples:  # the end may come within the right drafts
                s.tokens += [200 + int(s.id)] * (self.random.randint(1, 1 + n_right) if ends else 1 + n_right)
                s.first_token_at = s.first_token_at or self.now
            for action in sch.advance(row, n_right, at_end=row is batch.rows[-1]):
                self.cache.act(action)
            assert self.cache.tokens[s.seq_id] == s.tokens[: s.n_past], "it has its own tokens' cells, and no others"
            if row.samples and (ends or s.n_generated >= s.max_tokens):
                self.end(s)
        self.check_cache()

    def check_admitted(self, batch: Batch, called_back: list[Sequence], waiting: list[Sequence]) -> None:
        """The next in the queue is admitted; before it, one with a shorter prompt than another in prefill."""
        n_returned = len(self.begun.intersection(s.id for s in waiting))
        queue = [*reversed(batch.preempted), *waiting[:n_returned], *called_back, *waiting[n_returned:]]
        self.begun.update(s.id for s in batch.admitted)
        for s in batch.admitted:
            is_next = s is queue[0]
            is_shorter = any(s.n_pending <= len(r.tokens) - r.n_past for r in self.scheduler.running if r is not s)
            has_passed = sum(len(r.tokens) for r in self.scheduler.running if r.passes) + queue[0].n_pending
            has_less = self.n_running(s.tenant) <= max(1, self.scheduler.limits.n_seq // 2) or self.holds_less(s.tenant)
            assert is_next or is_shorter or has_less or (s.passes and has_passed <= self.n_cells)
            queue.remove(s)

    def n_running(self, tenant: str) -> int:
        return sum(s.tenant == tenant for s in self.scheduler.running)

    def holds_less(self, tenant: str) -> bool:
        """Whether it holds at most its share of the cells."""
        return sum(len(s.tokens) for s in self.scheduler.running if s.tenant == tenant) <= self.n_cells // 2

    def check_cache(self) -> None:
        sch = self.scheduler
        held = {s.seq_id: s.tokens[: s.n_past] for s in sch.running if s.n_past}
        held |= {kept.seq_id: kept.tokens for kept in sch.kept}
        assert self.cache.tokens == held, "the cache holds the sequences' and kept tokens, and no others"
        assert sch.cells.n_live == self.cache.n_used <= sch.cells.n_cells, "shared cells are counted once"
        ids = [*(s.seq_id for s in sch.running), *(kept.seq_id for kept in sch.kept)]
        assert sorted([*ids, *sch.sharing.free_ids]) == list(range(self.n_ids)), "no id is lost, none is used twice"

    def check_batch(self, batch: Batch) -> None:
        sch = self.scheduler
        assert sorted([*sch.running, *sch.waiting, *sch.resting], key=lambda s: int(s.id)) == self.live
        assert all(s.seq_id == -1 for s in (*sch.waiting, *sch.resting))
        assert batch.n_tokens <= sch.limits.n_batch
        assert len({id(r.sequence) for r in batch.rows}) == len(batch.rows)
        for r in batch.rows:
            assert r.sequence in sch.running and r.sequence.prefix_source is None
            assert 1 <= r.n <= r.sequence.n_pending
            assert r.samples == (r.n == r.sequence.n_pending)
            assert r.samples or not r.drafts
        if any(r.drafts for r in batch.rows):
            is_alone = not any(r.sequence.is_prefilling for r in batch.rows)
            assert is_alone or is_apart(batch.n_tokens, self.n_tile), "no draft tokens in a prompt's own decode"
            assert sum(r.n_tokens for r in batch.rows if not r.sequence.is_prefilling) <= self.most_rows
            assert not batch.preempted or sch.cells.n_live + batch.n_tokens <= sch.cells.n_cells
        decoding = [r.sequence for r in batch.rows if not r.sequence.is_prefilling]
        assert len(decoding) <= sch.limits.n_seq
        for s in sch.running:
            if not s.is_prefilling and s not in decoding:
                is_full = len(decoding) == min(sch.limits.n_seq, sch.limits.n_batch)
                gives_way = self.is_shared and {s.tenant} < {d.tenant for d in decoding}
                assert s.ahead_s(self.now) >= 0 or is_full or gives_way, "a sequence that is due is decoded"
        n_prefill = sum(r.n for r in batch.rows if r.sequence.is_prefilling)
        assert not decoding or n_prefill <= self.n_chunk, "a prompt delays running streams by one chunk at most"
        assert bool(batch.rows) == bool(self.live), "while any sequence is live, every step computes something"

    def teardown(self) -> None:
        """No starvation: without new arrivals every sequence ends, and only kept prefixes are left."""
        if not hasattr(self, "scheduler"):
            return
        # Each step samples a token or prefills a chunk; a preemption recomputes n_cells tokens at most.
        for _ in range(20_000):
            if not self.live:
                break
            self.step(0, 0.1)
        assert not self.live
        assert repr(self.scheduler) == (
            f"<Scheduler 0/{self.scheduler.limits.n_seq} running, 0 waiting, 0/{self.n_cells} cells>"
        )


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(max_examples=370, stateful_step_count=50)  # some 50,000 steps of the scheduler


def test_decodes_come_first_and_bound_the_chunk() -> None:
    """While others decode, one step prefills n_chunk tokens of a prompt at most."""
    sch = scheduler(n_seq=3, n_batch=100, n_cells=1000, n_chunk=8)
    sch.add(sequence("a", 20))
    assert rows(carry_out(sch)) == [("a", 20, True)]  # alone: all at once
    sch.add(sequence("b", 20))
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 4, True)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 1, True)]


def test_time_is_shared_among_tenants() -> None:
    """A chunk's share is the number of tenants with prompts for each that decodes, as a multiple of the running
    streams' time; a single tenant's time is its own."""
    shares: list[float | None] = []

    def n_chunk(n_decoding: int, n_reading: int, share: float | None) -> int:
        shares.append(share)
        return 100

    sch = Scheduler(Limits(n_seq=8, n_batch=100), Sharing(Cells(5000), None, 8), n_chunk=n_chunk)
    for tenant, expected in (("a", None), ("a", None), ("b", 1.0), ("c", 0.5), ("c", 1 / 3)):
        sch.add(sequence(f"s{len(shares)}", 20, tenant=tenant))
        carry_out(sch)
        assert shares[-1] == expected


def test_a_tenant_in_all_slots_leaves_others_their_share() -> None:
    """A tenant below its share is admitted beyond n_seq, and each step decodes as many as before, in rotation."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=1000, n_chunk=100, n_ids=8)
    for i in range(6):
        sch.add(sequence(f"a{i}", 2, 100, tenant="a"))
    carry_out(sch)
    assert [s.id for s in sch.running] == ["a0", "a1", "a2", "a3"]
    for i in range(3):
        sch.add(sequence(f"b{i}", 2, 100, tenant="b"))
    carry_out(sch)
    assert [s.id for s in sch.running[4:]] == ["b0", "b1"], "two of four slots are its share"
    decoded = Counter(id for _ in range(60) for id, _, _ in rows(carry_out(sch)))
    assert [s.id for s in sch.running] == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert decoded == {"a0": 30, "a1": 30, "a2": 30, "a3": 30, "b0": 60, "b1": 60}


def test_without_free_ids_full_slots_admit_no_other() -> None:
    """Each sequence needs its own id in the cache."""
    sch = scheduler(n_seq=2, n_batch=100, n_cells=1000, n_chunk=100)
    for id in ("a0", "a1", "b0"):
        sch.add(sequence(id, 2, 100, tenant=id[0]))
        carry_out(sch)
    assert [s.id for s in sch.running] == ["a0", "a1"]


def test_the_tenant_with_the_most_cells_is_preempted() -> None:
    """Not another tenant's sequence that came later and holds little, and never the oldest of all."""
    sch = scheduler(n_seq=8, n_batch=100, n_cells=100, n_chunk=100)
    for id, n in (("a0", 20), ("a1", 20), ("b0", 2)):
        sch.add(sequence(id, n, 60, tenant=id[0]))
    while not (preempted := carry_out(sch).preempted):
        pass
    assert [s.id for s in preempted] == ["a1"]
    while not (preempted := carry_out(sch).preempted):
        pass
    assert [s.id for s in preempted] == ["b0"]


def test_a_tenant_with_all_cells_leaves_others_their_share() -> None:
    """Its youngest sequence is preempted, and waits for room; a tenant within its own share keeps its cells."""
    sch = scheduler(n_seq=8, n_batch=1000, n_cells=1000, n_chunk=1000)
    for i in range(3):
        sch.add(sequence(f"a{i}", 300, 400, tenant="a"))
        carry_out(sch)
    for i in range(2):
        sch.add(sequence(f"b{i}", 200, 10, tenant="b"))
    moves = []
    for _ in range(9):
        batch = carry_out(sch)
        moves.append(([s.id for s in batch.preempted], [s.id for s in batch.admitted]))
    assert moves == [(["a2"], ["b0"]), (["a1"], ["b1"])] + [([], [])] * 7, "b's 400 and 300 of a's: each has its half"
    for _ in range(4):
        batch = carry_out(sch)
    assert [s.id for s in sch.running] == ["a0", "a1", "a2"]


def test_frequent_short_prompts_do_not_starve_a_long_one() -> None:
    """It is preempted for another tenant's once; when it has its cells again, it first generates tokens."""
    sch = scheduler(n_seq=8, n_batch=100, n_cells=1000, n_chunk=100)
    sch.add(sequence("b", 50, 30, tenant="b"))
    carry_out(sch)
    long = sequence("long", 800, 20, tenant="a")
    sch.add(long)
    n_preempted = 0
    for i in range(200):
        if sum(s.tenant == "b" for s in (*sch.running, *sch.waiting)) < 4:
            sch.add(sequence(f"b{i}", 50, 30, tenant="b"))
        n_preempted += long in carry_out(sch).preempted
    assert (long.n_generated, n_preempted) == (20, 1)


def test_short_prompts_overtake_a_long_one_without_room() -> None:
    """As many as leave it its room: when the running long one has ended it is admitted at once."""
    sch = scheduler(n_seq=8, n_batch=100, n_cells=1000, n_chunk=100)
    sch.add(sequence("running", 700, tenant="a"))
    carry_out(sch)
    sch.served.charge("c", 5000)
    sch.add(sequence("long", 700, tenant="b"))
    short = [sequence(f"short{i}", 50, tenant="c") for i in range(5)]
    for s in short:
        sch.add(s)
    for _ in range(12):
        carry_out(sch)
    passed = [s for s in short if s.seq_id >= 0]
    assert len(passed) == 4, "the long one leaves 300 cells, and each needs some for its answer"
    assert all(s.passes for s in passed)
    assert [s.id for s in sch.waiting] == ["long", "short4"]
    sch.remove(next(s for s in sch.running if s.id == "running"))
    carry_out(sch)
    assert [s.id for s in sch.waiting] == ["short4"]


def test_the_rest_of_a_chunk_goes_to_the_next_prompt() -> None:
    """In the same step, and alternately to the one with the least left and to the oldest first."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=1000, n_chunk=8)
    sch.add(sequence("a", 2))
    carry_out(sch)
    sch.add(sequence("b", 21))
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    sch.add(sequence("c", 10))
    sch.add(sequence("d", 20))
    assert rows(carry_out(sch)) == [("a", 1, True), ("c", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("c", 2, True), ("b", 5, True), ("d", 1, False)]


def test_a_short_prompt_is_admitted_before_waiting_long_ones() -> None:
    """With a long prompt in prefill and two waiting behind it, a short one does not wait for any of them."""
    sch = scheduler(n_seq=8, n_batch=100, n_cells=5000, n_chunk=8)
    sch.add(sequence("a", 2, 1000))
    carry_out(sch)
    for i in range(3):
        sch.add(sequence(f"long {i}", 1000))
    carry_out(sch)
    sch.add(sequence("short", 6))
    steps = [rows(carry_out(sch)) for _ in range(2)]
    assert ("short", 6, True) in steps[0] + steps[1]
    assert [s.id for s in sch.waiting] == ["long 1", "long 2"]


def test_prompts_alone_fill_the_batch() -> None:
    """Without decoding sequences, a step prefills n_batch tokens."""
    sch = scheduler(n_seq=4, n_batch=16, n_cells=1000, n_chunk=2)
    for id in "abc":
        sch.add(sequence(id, 10))
    assert rows(carry_out(sch)) == [("a", 10, True), ("b", 6, False)]


def test_no_more_than_n_seq_run() -> None:
    """A sequence waits for a free id, and gets that of a finished sequence."""
    sch = scheduler(n_seq=2, n_batch=100, n_cells=1000, n_chunk=100)
    a, b, c = (sequence(id, 2) for id in "abc")
    for s in (a, b, c):
        sch.add(s)
    carry_out(sch)
    assert (a.seq_id, b.seq_id, c.seq_id) == (0, 1, -1)
    assert sch.remove(a) == [Forget(0, dead=False)]
    carry_out(sch)
    assert (a.seq_id, b.seq_id, c.seq_id) == (-1, 1, 0)


def test_headroom() -> None:
    """A new sequence must leave 16 cells for each running one; alone it may take all."""
    sch = scheduler(n_seq=3, n_batch=1000, n_cells=100, n_chunk=1000)
    sch.add(sequence("a", 100, max_tokens=0))
    assert rows(sch.schedule()) == [("a", 100, True)]
    sch = scheduler(n_seq=3, n_batch=1000, n_cells=100, n_chunk=1000)
    sch.add(sequence("a", 40))
    sch.add(sequence("b", 100 - 40 - HEADROOM))
    assert [r[0] for r in rows(sch.schedule())] == ["a", "b"]
    sch = scheduler(n_seq=3, n_batch=1000, n_cells=100, n_chunk=1000)
    sch.add(sequence("a", 40))
    sch.add(sequence("b", 100 - 40 - HEADROOM + 1))
    sch.add(sequence("c", 70))  # would leave b no room, and does not overtake it
    assert [r[0] for r in rows(sch.schedule())] == ["a"]


def test_the_youngest_is_preempted() -> None:
    """When the cells run out the youngest sequence waits, first in the queue, and its tokens are computed again."""
    sch = scheduler(n_seq=3, n_batch=100, n_cells=40, n_chunk=100)
    old, young, new = sequence("old", 10, 30), sequence("young", 10, 30), sequence("new", 5, 5)
    sch.add(old)
    sch.add(young)
    sch.add(new)
    while not (preempted := carry_out(sch).preempted):
        assert len(sch.running) == 2
    assert preempted == [young]
    assert sch.waiting == [young, new]
    assert young.n_generated > 0 and young.n_past == 0
    while young.seq_id < 0:
        carry_out(sch)
    assert old.n_generated == 30  # it had to end first: 10 + 30 fill the cache
    assert young.n_past == 10 + young.n_generated - 1  # prompt and answer recomputed, one more token sampled


def test_one_sequence_may_fill_the_cache() -> None:
    """A sequence that runs alone is never preempted, however full the cache."""
    sch = scheduler(n_seq=2, n_batch=7, n_cells=16, n_chunk=3)
    s = sequence("a", 10, max_tokens=6)
    sch.add(s)
    assert [carry_out(sch).n_tokens for _ in range(7)] == [7, 3, 1, 1, 1, 1, 1]
    assert s.n_generated == 6
    assert not sch.running


@pytest.mark.parametrize("n_prompt", [0, 9])
def test_a_sequence_that_can_never_run(n_prompt: int) -> None:
    """A sequence that could never be computed is an error of the caller's, and does not wait for ever."""
    with pytest.raises(AssertionError):
        scheduler(n_seq=1, n_batch=8, n_cells=8, n_chunk=8).add(sequence("a", n_prompt))


def test_none_is_admitted_after_a_preemption() -> None:
    """Without `admit` the batch has the running sequences only."""
    sch = scheduler(n_seq=2, n_batch=8, n_cells=80, n_chunk=8)
    sch.add(sequence("a", 2))
    carry_out(sch)
    sch.add(sequence("b", 2))
    assert rows(sch.schedule(admit=False)) == [("a", 1, True)]
    assert rows(sch.schedule()) == [("a", 1, True), ("b", 2, True)]


def running(scheduler: Scheduler, *ids: str) -> None:
    """Prefills these sequences and samples their first tokens."""
    for id in ids:
        scheduler.add(sequence(id, 1))
        carry_out(scheduler)


def shapes(batch: Batch, n_tile: int | None) -> list[list[tuple[str, int]]]:
    return [[(row.sequence.id, row.n) for row in rows] for rows in batch.calls(n_tile)]


def test_few_rows_share_a_call() -> None:
    """Below n_tile rows, and on a GPU (None) always, decoding sequences and a prompt's chunk are one llama_decode."""
    sch = scheduler(n_seq=8, n_batch=64, n_cells=1000, n_chunk=5)
    running(sch, "a", "b")
    sch.add(sequence("c", 20))
    batch = sch.schedule()
    assert shapes(batch, 8) == [[("a", 1), ("b", 1), ("c", 5)]] == shapes(batch, None)


def test_many_rows_are_separate_calls() -> None:
    """From n_tile rows on, decoding sequences come first, fewer than n_tile at a time, multiples of sixteen if
    possible, and then prompts."""
    sch = scheduler(n_seq=8, n_batch=64, n_cells=1000, n_chunk=5)
    running(sch, "a", "b", "c")
    sch.add(sequence("d", 20))
    batch = sch.schedule()
    assert shapes(batch, 8) == [[("a", 1), ("b", 1), ("c", 1)], [("d", 5)]]
    assert shapes(batch, 3) == [[("a", 1), ("b", 1)], [("c", 1)], [("d", 5)]]
    sch = scheduler(n_seq=40, n_batch=64, n_cells=1000, n_chunk=64)
    for i in range(40):
        sch.add(sequence(str(i), 1))
    carry_out(sch)
    batch = sch.schedule()
    assert [len(rows) for rows in batch.calls(40)] == [32, 8]
    assert [len(rows) for rows in batch.calls(48)] == [40]


@dataclass
class Drafts:
    """A draft source that counts requests, and has no draft tokens."""

    asked: list[int]

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        self.asked.append(n_most)
        return [()] * len(sequences)

    def seconds(self, n_rows: int) -> float:
        return 1.0


def drafting(n_cells: int = 1000, *, in_order: bool = False, n_tile: int | None = None) -> tuple[Scheduler, list[int]]:
    """A scheduler with a draft source that has none, and how many draft tokens it asked for."""
    drafts, limits = Drafts([]), Limits(n_seq=4, n_batch=20, most_rows=12, n_tile=n_tile)
    sharing = Sharing(Cells(n_cells, in_order=in_order), None, 4)
    return Scheduler(limits, sharing, n_chunk=lambda *_: 128, drafts=drafts), drafts.asked


def tidying(tidies: bool) -> Scheduler:
    """A scheduler for two sequences; tidies: whether it may compact for speed alone."""
    sharing = Sharing(Cells(2000), None, 2)
    return Scheduler(Limits(n_seq=2, n_batch=256), sharing, n_chunk=lambda *_: 255, tidies=tidies)


def test_cells_are_compacted_before_a_long_prompt() -> None:
    """If allowed, and if there are holes: once, with the prompt's first chunk."""
    for tidies, expected in ((True, [True, False, False]), (False, [False] * 3)):
        sch = tidying(tidies)
        sch.add(sequence("a", 1, 100))
        sch.add(sequence("b", 200))
        carry_out(sch)
        sch.remove(sch.running[-1])
        sch.add(sequence("c", 600))
        assert [carry_out(sch).copies is not None for _ in range(3)] == expected


def test_cells_are_not_compacted_all_the_time() -> None:
    """For speed alone a twentieth of the time at most: prompts that come and go leave holes again and again."""
    sch = tidying(True)
    sch.add(sequence("a", 1, 100))
    carry_out(sch)

    def comes_and_goes(now: float) -> bool:
        sch.add(sequence("b", 200))
        carry_out(sch, now)
        sch.remove(sch.running[-1])
        sch.add(sequence("c", 600))
        batch = carry_out(sch, now)
        sch.remove(sch.running[-1])
        return batch.copies is not None

    assert comes_and_goes(1.0)
    sch.compaction.took(0.1, 1.1)
    assert [comes_and_goes(now) for now in (1.2, 1.1 + 0.1 * REST)] == [False, True]


def test_a_compaction_soon_after_another_evicts_first() -> None:
    """Half of the kept prefixes, the least recently used ones, so that less is copied and the next one is due later; a
    compaction after a rest evicts nothing."""
    for now, n_kept in ((1.2, 1), (1.1 + 0.1 * REST, 3)):
        sharing = Sharing(Cells(1600, in_order=True), Prefixes(Memory.CUTTABLE), 8)
        sch = Scheduler(Limits(n_seq=8, n_batch=2000), sharing, n_chunk=lambda *_: 2000)
        for i in range(7):
            sch.add(sequence(str(i), 200, tokens=[i] * 200))
        carry_out(sch)
        for ended in sch.running[1:6]:
            sch.remove(ended)
        assert sch.sharing.evict() and sch.sharing.evict(), "dead cells, without which there is nothing to compact"
        sch.add(sequence("last", 250, tokens=[9] * 250))
        sch.compaction.took(0.1, 1.1)
        batch = carry_out(sch, now)
        assert (batch.copies is not None, len(sch.kept)) == (True, n_kept)


def test_room_for_drafts() -> None:
    """The rest of the rows, and of the cells that no sequence needs or will need."""
    sch, asked = drafting()
    running(sch, "a", "b")
    carry_out(sch)
    assert asked == [10]
    sch, asked = drafting(n_cells=18)
    sch.add(sequence("a", 10))
    carry_out(sch)
    carry_out(sch)
    assert asked == [7]
    sch, asked = drafting(n_cells=18, in_order=True)
    sch.add(sequence("a", 10))
    carry_out(sch)
    carry_out(sch)
    assert asked == [6]


def test_drafts_with_a_prompt() -> None:
    """If a prompt is decoded in its own call there are drafts, as many as the batch has room for; else none."""
    for n_tile, n_prompt, expected in ((18, 17, [1]), (18, 8, []), (None, 17, [])):
        sch, asked = drafting(n_tile=n_tile)
        running(sch, "a", "b")
        asked.clear()
        sch.add(sequence("c", n_prompt))
        carry_out(sch)
        assert asked == expected


def test_a_sequence_far_ahead_of_its_reader_gets_no_drafts() -> None:
    """Alone it runs on, one token at a time."""
    sch, asked = drafting()
    sch.add(sequence("p", 5, 30, pace=1.0))
    for _ in range(30):
        carry_out(sch, 10.0)
    assert len(asked) == AHEAD_TOKENS + round(AHEAD_S) - 1


def test_accepted_drafts_are_charged() -> None:
    """A tenant is charged for the tokens that it got, not for the rows that these took."""
    sch, _ = drafting()
    sch.add(s := sequence("a", 5, tenant="a"))
    carry_out(sch)
    sch.schedule()
    had = sch.served.of("a")
    s.tokens += [2, 2, 2]
    assert sch.advance(Row(s, 1, samples=True, drafts=(2, 2, 1, 1)), 2, at_end=True) == [Cut(s.seq_id, 8, False)]
    assert sch.served.of("a") == had + 3
    assert (s.n_past, sch.cells.n_live) == (8, 8)


def test_nothing_to_do() -> None:
    """Without sequences the batch is empty."""
    batch = scheduler(n_seq=1, n_batch=8, n_cells=8, n_chunk=8).schedule()
    assert (batch.rows, batch.preempted, batch.n_tokens) == ([], [], 0)


def test_preempting_the_only_one() -> None:
    """There is no sequence to preempt when one runs or none."""
    sch = scheduler(n_seq=2, n_batch=8, n_cells=8, n_chunk=8)
    assert sch.give_way() == ([], None)
    sch.add(sequence("a", 2))
    sch.schedule()
    assert sch.give_way() == ([], None)


def test_repr() -> None:
    """It shows running, waiting and cells."""
    sch = scheduler(n_seq=2, n_batch=8, n_cells=64, n_chunk=8)
    for id in "abc":
        sch.add(sequence(id, 3))
    carry_out(sch)
    assert repr(sch) == "<Scheduler 2/2 running, 1 waiting, 6/64 cells>"


# --- sharing


STEM = list(range(100, 200))


def like(id: str, n_own: int, max_tokens: int = 10, *, n_stem: int = 100, tenant: str = "") -> Sequence:
    """A prompt that begins with the stem and continues with tokens of its own."""
    return sequence(id, 0, max_tokens, tokens=STEM[:n_stem] + [1000 + ord(id[0])] * n_own, tenant=tenant)


def sharer(memory: Memory = Memory.CUTTABLE, **options: Any) -> Scheduler:
    settings: dict[str, Any] = {"n_seq": 8, "n_batch": 64, "n_cells": 1000, "n_ids": 16, "memory": memory}
    return scheduler(**(settings | options))


def test_a_follower_waits_and_computes_its_own_tail() -> None:
    """While the shared prefix is being prefilled, the others wait for it; then each prefills its own rest."""
    sch = sharer()
    a, b, c = like("a", 1), like("b", 2), like("c", 3)
    for s in (a, b, c):
        sch.add(s)
    assert rows(carry_out(sch)) == [("a", 64, False)]
    assert rows(carry_out(sch)) == [("a", 37, True)]
    assert (b.prefix_source, b.n_awaited, b.n_past, c.prefix_source) == (a, 100, 0, a)
    batch = carry_out(sch)
    assert rows(batch) == [("a", 1, True), ("b", 2, True), ("c", 3, True)]
    assert batch.actions == [Share(a.seq_id, b.seq_id, 100), Share(a.seq_id, c.seq_id, 100)]
    assert [s.n_cached for s in (a, b, c)] == [0, 100, 100]
    assert sch.cells.n_live == 102 + 2 + 3


def test_a_follower_of_a_cancelled_source_continues_from_there() -> None:
    """What the prefix source had prefilled is kept, and the follower prefills the rest."""
    sch = sharer()
    a, b = like("a", 40), like("b", 2)
    sch.add(a)
    sch.add(b)
    sch.schedule()
    sch.advance(Row(a, 20, samples=False))
    sch.schedule()
    assert b.prefix_source is a
    assert sch.remove(a) == []
    assert [(k.seq_id, k.tokens) for k in sch.kept] == [(0, STEM[:20])]
    batch = carry_out(sch)
    assert (batch.actions, rows(batch)) == ([Share(0, b.seq_id, 20)], [("b", 64, False)])
    assert rows(carry_out(sch)) == [("b", 18, True)]
    assert b.n_cached == 20


def test_a_follower_shares_with_an_ended_source() -> None:
    """A prefix source that ends with its first token is as good as any."""
    sch = sharer(n_batch=200)
    sch.add(like("a", 1, max_tokens=1))
    sch.add(like("b", 2))
    assert rows(carry_out(sch)) == [("a", 101, True)]
    batch = carry_out(sch)
    assert (batch.actions, rows(batch)) == ([Share(0, 1, 100)], [("b", 2, True)])


def test_a_follower_and_its_source_are_preempted_together() -> None:
    """The follower, being the younger, is preempted first; later it follows the same source again."""
    sch = sharer()
    running(sch, "o")
    a, b = like("a", 1), like("b", 2)
    sch.add(a)
    sch.add(b)
    carry_out(sch)
    carry_out(sch)
    assert b.prefix_source is a and sch.kept == []
    assert [sch.give_way()[1] for _ in range(3)] == [b, a, None]
    assert sch.waiting == [a, b]
    assert b.n_awaited == 0
    assert rows(carry_out(sch)) == [("o", 1, True), ("a", 63, False)]
    assert rows(carry_out(sch)) == [("o", 1, True), ("a", 39, True)]
    assert rows(carry_out(sch)) == [("o", 1, True), ("a", 1, True), ("b", 2, True)]


def test_a_prefix_lost_by_preemption_is_not_cached() -> None:
    """A prompt that has to be prefilled after all, since its shared prefix was evicted, does not count it as cached."""
    sch = sharer(n_batch=200, n_chunk=10)
    sch.add(like("k", 1, max_tokens=1))
    carry_out(sch)
    running(sch, "o")
    sch.add(b := like("b", 20))
    carry_out(sch)
    assert (b.n_cached, b.n_past) == (100, 110)
    assert sch.give_way()[1] is None and sch.give_way()[1] is b  # kept prefixes first
    carry_out(sch)
    assert (b.n_cached, b.n_past) == (0, 10)


def test_a_shared_prompt_needs_few_cells() -> None:
    """Cells that are shared, or will be, are not counted again: five prompts of 102 tokens fit 200 cells, as long as
    each new one leaves its headroom."""
    sch = sharer(n_cells=200, n_batch=200)
    for id in "abcdefgh":
        sch.add(like(id, 2))
    carry_out(sch)
    assert [s.id for s in sch.running] == list("abcdef")
    assert sch._capacity.n_promised() == 102 + 5 * 2 + 1


def test_kept_prefixes_are_evicted_before_a_preemption() -> None:
    """Running sequences take the cells of kept prefixes, and only then each other's."""
    sch = sharer(n_cells=60)
    sch.add(like("k", 0, max_tokens=1, n_stem=20))
    carry_out(sch)
    assert repr(sch.cells) == "<Cells 20 live, 0 dead of 60>"
    for id in "ab":
        sch.add(sequence(id, 0, 40, tokens=[ord(id)] * 10))
    while not (batch := carry_out(sch)).actions:
        assert len(sch.kept) == 1
    assert (batch.actions, batch.preempted, sch.kept) == ([Forget(0, dead=False)], [], [])
    assert sch.cells.n_live == 40 + 2
    while not (batch := carry_out(sch)).preempted:
        assert len(sch.running) == 2
    assert sch.cells.n_live > 60 // 2


def test_kept_prefixes_are_evicted_for_a_waiting_sequence() -> None:
    """For cells and for an id: the least recently used one, and no more than needed."""
    sch = sharer(n_cells=100, n_ids=3, n_seq=3)
    for id in "kl":
        sch.add(sequence(id, 0, 1, tokens=[ord(id)] * 30))
        carry_out(sch)
    sch.add(sequence("a", 50))
    assert sch.schedule().actions == [Forget(0, dead=False)]
    sch.add(sequence("b", 0, tokens=[2]))
    assert sch.schedule(admit=False).actions == []
    sch = sharer(n_cells=1000, n_ids=2, n_seq=2)
    for id in "kl":
        sch.add(sequence(id, 0, 1, tokens=[ord(id)] * 30))
        carry_out(sch)
    sch.add(sequence("a", 10))
    assert sch.schedule().actions == [Forget(0, dead=False)]


def test_nothing_is_evicted_in_vain() -> None:
    """A sequence that could not be admitted even without kept prefixes evicts none."""
    sch = sharer(n_cells=100)
    sch.add(like("k", 0, max_tokens=1, n_stem=20))
    carry_out(sch)
    sch.add(sequence("a", 40))
    carry_out(sch)
    sch.add(b := sequence("b", 0, tokens=[2] * 60))
    assert carry_out(sch).actions == []
    assert sch.waiting == [b]


@pytest.mark.parametrize("memory", [Memory.WINDOWED, Memory.STATE])
@pytest.mark.parametrize("together", [True, False])
def test_a_source_stops_at_the_boundary(memory: Memory, together: bool) -> None:
    """If it can't be cut later it is prefilled only up to there, and leaves a copy for followers, now or when both have
    ended."""
    sch = sharer(memory, n_batch=200 if together else 60)
    sch.add(like("a", 30, 2))
    if not together:
        assert rows(carry_out(sch)) == [("a", 60, False)]
    sch.add(like("b", 5, 1))
    sch.add(like("c", 6, 1))
    assert rows(carry_out(sch)) == [("a", 100 if together else 40, False)]
    batch = carry_out(sch)
    assert batch.actions[0] == Share(0, sch.kept[0].seq_id, 100)
    assert sorted(rows(batch)) == [("a", 30, True), ("b", 5, True), ("c", 6, True)]
    assert sch.kept[0].tokens == STEM
    carry_out(sch)
    assert not sch.running
    sch.add(d := like("d", 7))
    assert rows(carry_out(sch)) == [("d", 7, True)]
    assert d.n_cached == 100


@pytest.mark.parametrize("memory", [Memory.WINDOWED, Memory.STATE])
def test_without_an_id_for_a_copy_followers_share_with_the_source(memory: Memory) -> None:
    """It is at the boundary for one step, which is enough."""
    sch = sharer(memory, n_ids=2, n_seq=2)
    a, b = like("a", 30), like("b", 5)
    sch.add(a)
    sch.add(b)
    carry_out(sch)
    assert rows(carry_out(sch)) == [("a", 36, False)]
    batch = carry_out(sch)
    assert batch.actions == [Share(a.seq_id, b.seq_id, 100)]
    assert sorted(rows(batch)) == [("a", 30, True), ("b", 5, True)]
    assert sch.kept == []


@pytest.mark.parametrize("memory", [Memory.WINDOWED, Memory.STATE])
def test_from_the_second_prompt_on_a_prefix_is_kept_at_its_end(memory: Memory) -> None:
    """The first prompt does not show where the next will differ, the second does, and the third is spared the
    prefix."""
    sch = sharer(memory, n_batch=200)
    n_read = []
    for id in "abc":
        sch.add(like(id, 5, 1))
        n_read.append(0)
        while sch.running or sch.waiting:
            n_read[-1] += carry_out(sch).n_tokens
    assert n_read == [105, 105, 5]


def test_tenants_do_not_share() -> None:
    """Each tenant prefills what another has prefilled, or is prefilling."""
    sch = sharer(n_batch=300)
    for tenant in ("a", "b"):
        sch.add(like(tenant, 5, tenant=tenant))
    assert rows(carry_out(sch)) == [("a", 105, True), ("b", 105, True)]


# --- fairness


def order(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    """The sequences in the order of their admission, until all have ended."""
    admitted = []
    while scheduler.running or scheduler.waiting:
        admitted += [s.id for s in carry_out(scheduler, now).admitted]
    return admitted


def test_a_tenant_with_one_request_is_next() -> None:
    """It does not wait for twenty earlier requests of another tenant, and its own next one waits for one of them."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=1000)
    for i in range(20):
        sch.add(sequence(f"a{i}", 5, tenant="a"))
    carry_out(sch)
    for i in range(2):
        sch.add(sequence(f"b{i}", 5, tenant="b"))
    carry_out(sch)
    assert [s.id for s in sch.waiting[:4]] == ["b0", "a1", "b1", "a2"]
    assert order(sch)[:4] == ["b0", "a1", "b1", "a2"]


def test_prompts_of_the_least_served_tenant_are_prefilled_first() -> None:
    """A short prompt does not wait until another tenant's long one is prefilled, nor, in alternation, one's own."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=2000, n_chunk=8)
    sch.add(sequence("a0", 5, 100, tenant="a"))
    carry_out(sch)
    sch.add(sequence("a1", 1000, tenant="a"))
    assert rows(carry_out(sch)) == [("a0", 1, True), ("a1", 8, False)]
    sch.add(sequence("b0", 13, tenant="b"))
    sch.served.charge("a", 14)
    assert rows(carry_out(sch)) == [("a0", 1, True), ("b0", 8, False)]
    sch.add(sequence("a2", 5, tenant="a"))
    assert rows(carry_out(sch)) == [("a0", 1, True), ("b0", 5, True), ("a1", 3, False)]
    assert rows(carry_out(sch)) == [("a0", 1, True), ("b0", 1, True), ("a2", 5, True), ("a1", 3, False)]


def test_a_new_tenant_does_not_wait_for_an_admitted_long_prompt() -> None:
    """It starts from what the other tenant has been served, and not from all that the other will be."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=2000, n_chunk=20)
    sch.add(sequence("a0", 1000, tenant="a"))
    carry_out(sch)
    sch.add(sequence("b0", 10, tenant="b"))
    assert ("b0", 10, True) in [row for _ in range(2) for row in rows(carry_out(sch))]


def test_prefill_has_its_share_of_the_time_with_other_tenants() -> None:
    """Once the burst is spent: a step with prefill takes 0.1 s here, and one without 0.01."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=20000, n_chunk=20)
    sch.add(sequence("b0", 5, 2500, tenant="b"))
    carry_out(sch)
    sch.add(sequence("a0", 8000, tenant="a"))
    time_s = [0.0, 0.0]
    for _ in range(2000):
        reads = len(carry_out(sch).rows) > 1
        time_s[reads] += (step_s := 0.1 if reads else 0.01)
        sch.took(step_s, 0.01)
    assert time_s[1] / sum(time_s) == pytest.approx(1 / 2, abs=0.1)


def test_prefill_is_not_limited_without_other_tenants_streams() -> None:
    """Credit is for what delays other tenants: with one tenant, or with prompts alone, each step prefills."""
    sch = scheduler(n_seq=4, n_batch=100, n_cells=9000, n_chunk=20)
    for tenant in "ab":
        sch.add(sequence(tenant, 4000, tenant=tenant))
    for _ in range(50):
        assert sum(r.n for r in carry_out(sch).rows) == 100
        sch.took(1.0, 0.0)


@pytest.mark.parametrize("is_there", [True, False])
def test_absence_earns_no_credit(is_there: bool) -> None:
    """A tenant without requests while another was served alternates with it from then on, and gets no more."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=1000)
    for i in range(5):
        sch.add(sequence(f"a{i}", 5, tenant="a"))
    while len(sch.waiting) > is_there or (sch.running and not is_there):
        carry_out(sch)
    for i in range(3):
        sch.add(sequence(f"b{i}", 5, tenant="b"))
    for i in range(5, 8):
        sch.add(sequence(f"a{i}", 5, tenant="a"))
    turns = "".join(id[0] for id in order(sch))
    assert "bbb" not in turns and "aaa" not in turns


def test_a_preempted_sequence_comes_before_any_tenant() -> None:
    """Its tenant has been charged for it already, and its reader is in the middle of the text."""
    sch = scheduler(n_seq=2, n_batch=100, n_cells=1000)
    for id in ("a0", "a1"):
        sch.add(sequence(id, 5, tenant="a"))
    carry_out(sch)
    sch.add(sequence("b0", 5, tenant="b"))
    had = sch.served.of("a")
    _, youngest = sch.give_way()
    assert youngest is not None and youngest.id == "a1"
    assert [s.id for s in sch.waiting] == ["a1", "b0"]
    assert [s.id for s in sch.schedule().admitted] == ["a1"]
    assert sch.served.of("a") == had


# --- readers that are slower than the engine


def test_a_sequence_far_ahead_of_its_reader_yields_its_slot() -> None:
    """It leaves the step, and its slot, to one that waits, and takes part again as soon as its reader needs more."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=1000, n_ids=2)
    sch.add(paced := sequence("p", 5, 30, pace=1.0))
    sch.add(sequence("w", 5, 30))
    n_first = AHEAD_TOKENS + round(AHEAD_S)
    for _ in range(n_first):
        assert [id for id, *_ in rows(carry_out(sch, 10.0))] == ["p"]
    assert rows(carry_out(sch, 10.0)) == [("w", 5, True)]
    for _ in range(5):
        assert rows(carry_out(sch, 10.0)) == [("w", 1, True)]
    assert rows(carry_out(sch, 10.5)) == [("p", 1, True)]  # one slot: it has rested longer than the other
    assert rows(carry_out(sch, 10.5)) == [("w", 1, True)]
    assert paced.n_generated == n_first + 1


def test_a_sequence_that_is_ahead_runs_on_alone() -> None:
    """Without others to compute, a pace slows nothing down."""
    sch = scheduler(n_seq=2, n_batch=100, n_cells=1000)
    for id in "pq":
        sch.add(sequence(id, 5, 30, pace=1.0))
    for _ in range(30):
        assert [id for id, *_ in rows(carry_out(sch, 10.0))] == ["p", "q"]
    assert not sch.running


def test_a_long_rest_gives_the_cells_to_a_waiting_sequence() -> None:
    """And the id. It is computed again when it is due, and continues as if uninterrupted."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=60)
    sch.add(paced := sequence("p", 30, 30, pace=1.0))
    while paced.ahead_s(10.0) < LEAST_REST_S:
        assert [id for id, *_ in rows(carry_out(sch, 10.0))] == ["p"]
    n_made = paced.n_generated
    sch.add(sequence("w", 30, 3))
    batch = carry_out(sch, 10.0)
    assert (rows(batch), batch.rested, sch.resting) == ([("w", 30, True)], [paced], [paced])
    assert (sch.waiting, paced.seq_id) == ([], -1)
    assert rows(carry_out(sch, 11.0)) == [("w", 1, True)]
    sch.add(sequence("v", 30, 3))
    assert rows(carry_out(sch, 12.0)) == [("w", 1, True)]
    assert rows(carry_out(sch, 13.0)) == [("p", 30 + n_made, True)]  # before later arrivals


def test_a_sequence_that_is_due_soon_keeps_its_cells() -> None:
    """To compute it again would take longer than it rests; the waiting one keeps waiting, and it continues."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=1000)
    sch.add(paced := sequence("p", 5, 300, pace=100.0))
    while paced.ahead_s(10.0) < LEAST_REST_S / 2:
        carry_out(sch, 10.0)
    sch.add(sequence("w", 5, 30))
    assert rows(carry_out(sch, 10.0)) == [("p", 1, True)]
    assert not sch.resting


def test_a_sequence_that_rests_without_cells_returns_when_alone() -> None:
    """Without others to compute, a pace slows nothing down."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=60)
    sch.add(paced := sequence("p", 30, 30, pace=0.001))
    while paced.ahead_s(10.0) < LEAST_REST_S:
        carry_out(sch, 10.0)
    n_made = paced.n_generated
    sch.add(sequence("w", 30, 1))
    assert rows(carry_out(sch, 10.0)) == [("w", 30, True)]
    assert rows(carry_out(sch, 10.0)) == [("p", 30 + n_made, True)]


def test_a_sequence_that_rests_without_cells_can_be_cancelled() -> None:
    """It leaves nothing behind."""
    sch = scheduler(n_seq=1, n_batch=100, n_cells=60)
    sch.add(paced := sequence("p", 30, 30, pace=0.001))
    while paced.ahead_s(10.0) < LEAST_REST_S:
        carry_out(sch, 10.0)
    sch.add(sequence("w", 30, 5))
    carry_out(sch, 10.0)
    assert sch.remove(paced) == []
    assert not sch.resting


def test_prompts_that_need_logits() -> None:
    """A batch asks for no more logits than it may have, every step prefills something of them, and each of their tokens
    but the last has its logits once."""
    sch = Scheduler(
        Limits(n_seq=4, n_batch=100, n_outputs=10),
        Sharing(Cells(1000), Prefixes(Memory.CUTTABLE), 8),
        n_chunk=lambda *_: 90,
    )
    sequences = [sequence(f"s{i}", 40, max_tokens=5) for i in range(4)]
    for s in sequences[:3]:
        s.n_unscored = s.n_prompt - 1
    for s in sequences:
        sch.add(s)
    scored = dict.fromkeys([s.id for s in sequences], 0)
    while sch.running or sch.waiting:
        batch = sch.schedule()
        assert 0 < sum(row.n_logits for row in batch.rows) <= 10
        for row in batch.rows:
            s = row.sequence
            n_new = min(s.n_past + row.n, s.n_prompt - 1) - (s.n_past + row.n - row.n_scoring)
            if row.n_scoring:
                scored[s.id] += n_new
                s.n_unscored -= n_new
            sch.advance(row)
            if row.samples:
                s.tokens.append(2)
                if s.n_generated >= s.max_tokens:
                    sch.remove(s)
    assert scored == {"s0": 39, "s1": 39, "s2": 39, "s3": 0}
    assert [s.n_cached for s in sequences[:3]] == [0, 0, 0]
