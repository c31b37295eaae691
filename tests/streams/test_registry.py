from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import EngineCrash, KeyReused, NotReady, QueueFull, ShuttingDown
from service.protocol.frames import Accepted, Rejected, Step
from service.protocol.sampling import Sampling
from service.streams.request import GenerationRequest
from service.streams.stream import Stream
from service.streams.table import Role, kept_bytes
from tests.fakes import finish, ready
from tests.house import ORDER, House


def test_ids_are_128_random_bits() -> None:
    """An id is a capability: 32 hex digits, never the same."""
    house = House()
    ids = {house.open().id for _ in range(4)}
    assert len(ids) == 4 and all(len(id) == 32 and int(id, 16) >= 0 for id in ids)


def test_a_seed_is_resolved_before_the_engine_gets_the_request() -> None:
    """Without a seed a random one in 0 .. 2**32-2; a given one is kept."""
    house = House()
    seeds = {house.open().submit.sampling.seed for _ in range(3)}
    assert len(seeds) > 1 and all(0 <= seed < 2**32 - 1 for seed in seeds)
    assert (
        house.open(generation=GenerationRequest(sampling=Sampling(seed=0), text="x", seed=5)).submit.sampling.seed == 5
    )


def test_a_refused_request_makes_no_stream() -> None:
    """It leaves nothing behind and does not reach the engine."""
    house = House()
    for _ in range(4):
        house.open()
    with pytest.raises(QueueFull):
        house.open()
    assert (len(house.engine.submitted), house.streams.n_made) == (4, 4)


def test_a_plain_stream_ends_with_its_last_reader() -> None:
    """It is cancelled when the last of its readers leaves, not before."""
    house = House()
    stream = house.running()
    with house.streams.attach(stream, stall=lambda: None):
        with house.streams.attach(stream, stall=lambda: None):
            pass
        assert stream.open
    assert stream.outcome == "client_left"


def test_a_resumable_stream_runs_on_for_its_grace() -> None:
    """Its readers may be absent for resume_grace_s; one that returns in time stops the clock."""
    house = House(resume_grace_s=30)
    stream = house.running(resumable=True)
    with house.streams.attach(stream, stall=lambda: None):
        pass
    house.pass_time(29)
    with house.streams.attach(stream, place=1, stall=lambda: None):
        house.pass_time(100)
        assert stream.open
    house.pass_time(29)
    assert stream.open
    house.pass_time(1)
    assert stream.outcome == "client_left"


def test_a_stream_that_is_never_read_is_cancelled() -> None:
    """POST /v1/streams without a reader within the grace period does not run for ever."""
    house = House(resume_grace_s=30)
    stream = house.running(resumable=True)
    house.pass_time(30)
    assert stream.outcome == "client_left"


def test_a_finished_stream_is_not_cancelled_by_its_readers() -> None:
    """Leaving after the end has no effect."""
    house = House()
    stream = house.running()
    with house.streams.attach(stream, stall=lambda: None):
        house.streams.live.deliver(Step(finished=[finish(stream.id)]))
    assert house.observer.outcomes == ["stop"]
    assert house.engine.cancelled == []


def test_the_end_of_the_drain_fails_what_is_left() -> None:
    """Each live stream is cancelled at the engine and gets the failure."""
    house = House()
    stream = house.running()
    house.streams.fail_all(lambda: ShuttingDown("bye"))
    assert stream.outcome == "shutting_down"
    assert [stream.id] == house.engine.cancelled


def test_a_finished_stream_can_be_read_for_its_time_to_live() -> None:
    """Then it is forgotten, together with its key."""
    house = House(stream_ttl_s=300)
    stream = house.finished(key="k")
    house.pass_time(299)
    assert stream is house.streams.find(stream.id)
    assert stream is house.streams.by_key("", "k", ORDER)
    house.pass_time(1)
    assert None is house.streams.find(stream.id)
    assert None is house.streams.by_key("", "k", ORDER)
    assert repr(house.streams) == "<Streams <StreamTable 0 made, 0 followed, 0 ended>, 0 readers>"


def test_a_key_finds_its_stream() -> None:
    """Running or finished, for the same request only, and for the same tenant only."""
    house = House()
    stream = house.open(key="k")
    assert stream is house.streams.by_key("", "k", ORDER)
    assert None is house.streams.by_key("other tenant", "k", ORDER)
    assert None is house.streams.by_key("", "other key", ORDER)
    with pytest.raises(KeyReused):
        house.streams.by_key("", "k", GenerationRequest(sampling=Sampling(seed=0), text="another prompt"))


def test_a_forgotten_key_may_be_used_again() -> None:
    """Forgetting the first stream later does not take the key from the second."""
    house = House(stream_ttl_s=10)
    house.finished(key="k")
    house.pass_time(10)
    second = house.finished(key="k")
    house.pass_time(1)
    assert second is house.streams.by_key("", "k", ORDER)


def test_one_clock_beats_for_all_readers() -> None:
    """A tick reaches every attached reader, and none that has left."""
    house = House(write_timeout_s=30)
    stream, stalls = house.running(), []
    with house.streams.attach(stream, stall=lambda: stalls.append(1)) as reader:
        house.streams.tick()
        assert house.streams.n_readers == 1
        reader._writing_since = house.clock()
        house.pass_time(30)
    assert (stalls, house.streams.n_readers) == ([1], 0)


class Life(RuleBasedStateMachine):
    """Any order of arrivals, frames, departures, cancels, crashes and time keeps the state consistent."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(resume_grace_s=30, stream_ttl_s=100, queue_timeout_s=60)
        self.streams: list[Stream] = []
        self.reading: list[tuple[Stream, ExitStack]] = []
        self.n_opened = 0

    def one(self, data: st.DataObject) -> Stream | None:
        return data.draw(st.sampled_from(self.streams)) if self.streams else None

    @rule(resumable=st.booleans(), key=st.none() | st.sampled_from("ab"), attach=st.booleans())
    def arrive(self, resumable: bool, key: str | None, attach: bool) -> None:
        stream = None if key is None else self.house.streams.by_key("", key, ORDER)
        if stream is None:
            try:
                stream = self.house.open(resumable=resumable, key=key)
            except QueueFull:
                assert self.house.admission.n_tickets == 4
                return
            self.n_opened += 1
            self.streams.append(stream)
        if attach or not resumable:
            self.attach(stream)

    def attach(self, stream: Stream) -> None:
        stack = ExitStack()
        stack.enter_context(self.house.streams.attach(stream, stall=lambda: None))
        self.reading.append((stream, stack))

    @rule(data=st.data())
    def reattach(self, data: st.DataObject) -> None:
        stream = self.one(data)
        if stream is not None and self.house.streams.find(stream.id):
            self.attach(stream)

    @rule(seed=st.integers())
    def leave(self, seed: int) -> None:
        if self.reading:
            _, stack = self.reading.pop(random.Random(seed).randrange(len(self.reading)))
            stack.close()

    @rule(data=st.data(), kind=st.sampled_from(["accept", "refuse", "queued", "prefill", "delta", "finish"]))
    def engine_says(self, data: st.DataObject, kind: str) -> None:
        stream = self.one(data)
        if stream is None:
            return
        id = stream.id
        frames: dict[str, Accepted | Rejected | Step] = {
            "accept": Accepted(id, 3, 100),
            "refuse": Rejected(id, "no", "no"),
            "queued": Step(queued=[(id, 1)]),
            "prefill": Step(prefill=[(id, 3, 3)]),
            "delta": Step(deltas=[(id, [1], "x")]),
            "finish": Step(finished=[finish(id)]),
        }
        self.house.streams.live.deliver(frames[kind])

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if stream := self.one(data):
            self.house.streams.cancel(stream)

    @rule(seconds=st.sampled_from([0.1, 29, 31, 61, 101]))
    def time_passes(self, seconds: float) -> None:
        self.house.pass_time(seconds)

    @rule(stays_down=st.booleans())
    def crash(self, stays_down: bool) -> None:
        before = {s.id: len(s.log) for s in self.streams if s.open}
        self.house.streams.live.lost(lambda: NotReady("restarting"), stays_down)
        failed = [s for s in self.streams if s.id in before and not s.open]
        assert all(isinstance(s.error, EngineCrash) for s in failed)
        assert not stays_down or len(failed) == len(before)
        self.house.streams.live.ready(ready(n_seq=2))
        for s in self.streams:
            assert not s.open or len(s.log) == before[s.id], "a pause is no event"

    @invariant()
    def the_state_is_consistent(self) -> None:
        streams, live = self.house.streams, [s for s in self.streams if s.open]
        assert streams.n_made == len(live) == self.house.admission.n_tickets
        assert self.house.admission.n_running == sum(s.times.started_at is not None for s in live)
        assert len(self.house.observer.outcomes) == self.n_opened - len(live)
        assert streams.n_readers == len(self.reading) == sum(len(s.log.readers) for s in self.streams)
        assert set(streams.table._deadlines) == {s.id for s in live if not s.log.readers}
        assert streams.table._n_ended_bytes == sum(kept_bytes(s) for s in streams.table.in_role(Role.ENDED))
        assert {id for id, _ in streams.keys._made.values()} == set(streams.keys._key_of)

    @invariant()
    def every_log_has_at_most_one_end(self) -> None:
        for stream in self.streams:
            raw = b"".join(stream.log)
            ends = raw.count(b"event: done") + raw.count(b"event: failure")
            assert ends == (0 if stream.open or not stream.log else 1)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
