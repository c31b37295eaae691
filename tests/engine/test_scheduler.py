"""The scheduler alone: a machine of arrivals, cancels and ends checks each batch against what must always hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from service.engine.scheduler import HEADROOM, Batch, Scheduler
from service.engine.sequence import Sequence
from service.engine.text import Text


def sequence(id: str, n_prompt: int, max_tokens: int = 10) -> Sequence:
    return Sequence(id=id, tokens=[1] * n_prompt, n_prompt=n_prompt, max_tokens=max_tokens, text=Text())


def carry_out(scheduler: Scheduler) -> Batch:
    """One step as the engine does it: decode, a token where one is sampled, the finished ones removed."""
    batch = scheduler.schedule()
    for row in batch.rows:
        s = row.sequence
        s.n_past += row.n
        if row.samples:
            s.tokens.append(2)
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
        n_batch=st.integers(1, 24),
        n_cells=st.integers(4, 80),
        n_slice=st.integers(1, 12),
    )
    def begin(self, n_seq: int, n_batch: int, n_cells: int, n_slice: int) -> None:
        self.scheduler = Scheduler(n_seq=n_seq, n_batch=n_batch, n_cells=n_cells, n_slice=n_slice)
        self.live, self.n_made = [], 0

    @rule(n_prompt=st.integers(1, 79), max_tokens=st.integers(1, 40))
    def arrive(self, n_prompt: int, max_tokens: int) -> None:
        """As the inbox bounds it: prompt and answer together fit the cache."""
        n_prompt = min(n_prompt, self.scheduler.n_cells - 1)
        s = sequence(str(self.n_made), n_prompt, min(max_tokens, self.scheduler.n_cells - n_prompt))
        self.n_made += 1
        self.scheduler.add(s)
        self.live.append(s)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        s = data.draw(st.sampled_from(self.live))
        had = s.seq_id
        assert self.scheduler.remove(s) == had
        self.live.remove(s)

    @rule(end=st.integers(0, 7))
    def step(self, end: int) -> None:
        """One engine step, in which the sequences whose number divides by `end` meet their end token."""
        sch = self.scheduler
        waiting_before = list(sch.waiting)
        running_before = {s: s.seq_id for s in sch.running}
        batch = sch.schedule()
        self.check_preemption(batch, running_before)
        self.check_batch(batch)
        admitted = [s for s in sch.running if s not in running_before]
        returned = [s for _, s in batch.preempted]
        assert admitted == [*returned[::-1], *waiting_before][: len(admitted)], "first come, first served"
        for row in batch.rows:
            s = row.sequence
            s.n_past += row.n
            if row.samples:
                s.tokens.append(2)
                ends = bool(end) and int(s.id) % end == 0
                if ends or s.n_generated >= s.max_tokens:
                    sch.remove(s)
                    self.live.remove(s)
        assert sch.n_cells_used <= sch.n_cells

    def check_preemption(self, batch: Batch, running_before: dict[Sequence, int]) -> None:
        for seq_id, s in batch.preempted:
            assert running_before[s] == seq_id, "the id whose cells are to be freed is the one that it had"
            assert s.seq_id == -1 and s.n_past == 0 and s in self.scheduler.waiting

    def check_batch(self, batch: Batch) -> None:
        sch = self.scheduler
        assert [*sch.running, *sch.waiting] == self.live, "the order of arrival holds through every preemption"
        ids = [s.seq_id for s in sch.running]
        assert len(set(ids)) == len(ids) and all(0 <= i < sch.n_seq for i in ids)
        assert all(s.seq_id == -1 for s in sch.waiting)
        assert batch.n_tokens <= sch.n_batch
        assert len({id(r.sequence) for r in batch.rows}) == len(batch.rows)
        for r in batch.rows:
            assert r.sequence in sch.running
            assert 1 <= r.n <= r.sequence.n_pending
            assert r.samples == (r.n == r.sequence.n_pending)
        decoding = [s for s in sch.running if not s.is_prefilling]
        assert [r.sequence for r in batch.rows if not r.sequence.is_prefilling] == decoding, "no stream skips a step"
        read = sum(r.n for r in batch.rows if r.sequence.is_prefilling)
        assert not decoding or read <= sch.n_slice, "a prompt never holds up running streams"
        assert sum(s.n_past for s in sch.running) + batch.n_tokens <= sch.n_cells
        assert bool(batch.rows) == bool(self.live), "while anything lives, every step computes something"

    def teardown(self) -> None:
        """Nobody starves: without new arrivals everything ends, and nothing is kept."""
        if not hasattr(self, "scheduler"):
            return
        # Each step makes a token or reads a slice; a preemption reads again what at most n_cells hold.
        for _ in range(20_000):
            if not self.live:
                break
            self.step(0)
        assert not self.live
        assert repr(self.scheduler) == (
            f"<Scheduler 0/{self.scheduler.n_seq} running, 0 waiting, 0/{self.scheduler.n_cells} cells>"
        )
        assert sorted(self.scheduler._free_ids) == list(range(self.scheduler.n_seq))


TestMachine: Any = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40)


def test_decodes_come_first_and_bound_the_slice() -> None:
    """While others decode, one step reads n_slice tokens of a prompt at most."""
    sch = Scheduler(n_seq=3, n_batch=100, n_cells=1000, n_slice=8)
    sch.add(sequence("a", 20))
    assert rows(carry_out(sch)) == [("a", 20, True)]  # alone: all at once
    sch.add(sequence("b", 20))
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 4, True)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 1, True)]


def test_one_slice_goes_to_the_oldest_prompt_first() -> None:
    """What an older prompt leaves of a slice goes to the next one in the same step."""
    sch = Scheduler(n_seq=3, n_batch=100, n_cells=1000, n_slice=8)
    sch.add(sequence("a", 2))
    carry_out(sch)
    sch.add(sequence("b", 10))
    sch.add(sequence("c", 10))
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 8, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 2, True), ("c", 6, False)]
    assert rows(carry_out(sch)) == [("a", 1, True), ("b", 1, True), ("c", 4, True)]


def test_prompts_alone_fill_the_batch() -> None:
    """With nobody decoding, a step reads n_batch tokens."""
    sch = Scheduler(n_seq=4, n_batch=16, n_cells=1000, n_slice=2)
    for id in "abc":
        sch.add(sequence(id, 10))
    assert rows(carry_out(sch)) == [("a", 10, True), ("b", 6, False)]


def test_no_more_than_n_seq_run() -> None:
    """A sequence waits for a free id, and gets the one that a finished sequence had."""
    sch = Scheduler(n_seq=2, n_batch=100, n_cells=1000, n_slice=100)
    a, b, c = (sequence(id, 2) for id in "abc")
    for s in (a, b, c):
        sch.add(s)
    carry_out(sch)
    assert (a.seq_id, b.seq_id, c.seq_id) == (0, 1, -1)
    assert sch.remove(a) == 0
    carry_out(sch)
    assert (a.seq_id, b.seq_id, c.seq_id) == (-1, 1, 0)


def test_headroom() -> None:
    """A newcomer must leave 16 cells for each sequence that runs already; alone it may take all."""
    sch = Scheduler(n_seq=3, n_batch=1000, n_cells=100, n_slice=1000)
    sch.add(sequence("a", 100, max_tokens=0))
    assert rows(sch.schedule()) == [("a", 100, True)]
    sch = Scheduler(n_seq=3, n_batch=1000, n_cells=100, n_slice=1000)
    sch.add(sequence("a", 40))
    sch.add(sequence("b", 100 - 40 - HEADROOM))
    assert [r[0] for r in rows(sch.schedule())] == ["a", "b"]
    sch = Scheduler(n_seq=3, n_batch=1000, n_cells=100, n_slice=1000)
    sch.add(sequence("a", 40))
    sch.add(sequence("b", 100 - 40 - HEADROOM + 1))
    sch.add(sequence("c", 1))  # would fit, but is not first
    assert [r[0] for r in rows(sch.schedule())] == ["a"]


def test_the_youngest_gives_way() -> None:
    """When the cells run out the youngest sequence waits, first in line, and its tokens are computed again."""
    sch = Scheduler(n_seq=3, n_batch=100, n_cells=40, n_slice=100)
    old, young, new = sequence("old", 10, 30), sequence("young", 10, 30), sequence("new", 5, 5)
    sch.add(old)
    sch.add(young)
    sch.add(new)
    while not (preempted := carry_out(sch).preempted):
        assert len(sch.running) == 2
    assert preempted == [(1, young)]
    assert list(sch.waiting) == [young, new]
    assert young.n_generated > 0 and young.n_past == 0
    while young.seq_id < 0:
        carry_out(sch)
    assert old.n_generated == 30  # it had to end first: 10 + 30 fill the cache
    assert young.n_past == 10 + young.n_generated - 1  # prompt and answer read again, one token more made


def test_one_sequence_may_fill_the_budget() -> None:
    """A sequence that is alone is never preempted, however full the cache."""
    sch = Scheduler(n_seq=2, n_batch=7, n_cells=16, n_slice=3)
    s = sequence("a", 10, max_tokens=6)
    sch.add(s)
    assert [carry_out(sch).n_tokens for _ in range(7)] == [7, 3, 1, 1, 1, 1, 1]
    assert s.n_generated == 6
    assert not sch.running


@pytest.mark.parametrize("n_prompt", [0, 9])
def test_a_sequence_that_can_never_run(n_prompt: int) -> None:
    """What could never be computed is an error of the caller's, not a sequence that waits for ever."""
    with pytest.raises(AssertionError):
        Scheduler(n_seq=1, n_batch=8, n_cells=8, n_slice=8).add(sequence("a", n_prompt))


def test_nobody_is_let_in_beside_one_who_gave_way() -> None:
    """Without `admit` the batch is made of those who run."""
    sch = Scheduler(n_seq=2, n_batch=8, n_cells=80, n_slice=8)
    sch.add(sequence("a", 2))
    carry_out(sch)
    sch.add(sequence("b", 2))
    assert rows(sch.schedule(admit=False)) == [("a", 1, True)]
    assert rows(sch.schedule()) == [("a", 1, True), ("b", 2, True)]


def running(scheduler: Scheduler, *ids: str) -> None:
    """Let these sequences be read and have a first token."""
    for id in ids:
        scheduler.add(sequence(id, 1))
        carry_out(scheduler)


def shapes(batch: Batch, n_tile: int | None) -> list[list[tuple[str, int]]]:
    return [[(row.sequence.id, row.n) for row in rows] for rows in batch.calls(n_tile)]


def test_few_rows_share_a_call() -> None:
    """Below n_tile rows, and on a GPU (None) always, decoding sequences and a prompt's slice are one llama_decode."""
    scheduler = Scheduler(n_seq=8, n_batch=64, n_cells=1000, n_slice=5)
    running(scheduler, "a", "b")
    scheduler.add(sequence("c", 20))
    batch = scheduler.schedule()
    assert shapes(batch, 8) == [[("a", 1), ("b", 1), ("c", 5)]] == shapes(batch, None)


def test_many_rows_are_computed_apart() -> None:
    """From n_tile rows on, decoding sequences go first, fewer than n_tile at a time, and prompts after them."""
    scheduler = Scheduler(n_seq=8, n_batch=64, n_cells=1000, n_slice=5)
    running(scheduler, "a", "b", "c")
    scheduler.add(sequence("d", 20))
    batch = scheduler.schedule()
    assert shapes(batch, 8) == [[("a", 1), ("b", 1), ("c", 1)], [("d", 5)]]
    assert shapes(batch, 3) == [[("a", 1), ("b", 1)], [("c", 1)], [("d", 5)]]


def test_nothing_to_do() -> None:
    """Without sequences the batch is empty."""
    batch = Scheduler(n_seq=1, n_batch=8, n_cells=8, n_slice=8).schedule()
    assert (batch.rows, batch.preempted, batch.n_tokens) == ([], [], 0)


def test_preempting_the_only_one() -> None:
    """There is nobody to give way when one runs or none."""
    sch = Scheduler(n_seq=2, n_batch=8, n_cells=8, n_slice=8)
    assert sch.preempt_youngest() is None
    sch.add(sequence("a", 2))
    sch.schedule()
    assert sch.preempt_youngest() is None


def test_repr() -> None:
    """The window shows running, waiting and cells."""
    sch = Scheduler(n_seq=2, n_batch=8, n_cells=64, n_slice=8)
    for id in "abc":
        sch.add(sequence(id, 3))
    carry_out(sch)
    assert repr(sch) == "<Scheduler 2/2 running, 1 waiting, 6/64 cells>"
