from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service import sse
from service.admission import Admission
from service.engine.protocol import Accepted, Refused, Sampling, Step, Submit
from service.errors import EngineCrash, KeyReused, NotReady, QueueFull, ShuttingDown
from service.registry import Limits, Streams
from service.schema import Order
from service.streams import Stream
from tests.fakes import Clock, finish, ready

ORDER = Order(sampling=Sampling(seed=0), text="hi")


class Engine:
    """Notes what it is sent."""

    def __init__(self) -> None:
        self.submitted: list[Submit] = []
        self.cancelled: list[str] = []

    def submit(self, submit: Submit, /) -> None:
        self.submitted.append(submit)

    def cancel(self, id: str, /) -> None:
        self.cancelled.append(id)


class Observer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.outcomes: list[str] = []
        self.n_continued = 0

    def gap(self, gap_s: float, /) -> None:
        self.gaps.append(gap_s)

    def step(self, step: Step, /) -> None:
        pass

    def continued(self) -> None:
        self.n_continued += 1

    def closed(self, stream: Stream, /) -> None:
        self.outcomes.append(stream.outcome)


class House:
    """Streams with everything round them."""

    def __init__(self, **limits: float) -> None:
        self.clock, self.engine, self.observer = Clock(), Engine(), Observer()
        self.admission = Admission(n_seq=2, max_waiting=2, closed=lambda: NotReady("loading"))
        self.streams = Streams(
            engine=self.engine,
            admission=self.admission,
            observer=self.observer,
            limits=Limits(**limits),  # type: ignore[arg-type]  # the test says which
            clock=self.clock,
        )
        self.streams.ready(ready(n_seq=2))

    def open(self, *, resumable: bool = False, key: str | None = None, order: Order = ORDER) -> Stream:
        return self.streams.open(
            order, sse.Native(), route="/stream", arrived_at=self.clock(), resumable=resumable, key=key
        )

    def running(self, *, resumable: bool = False, key: str | None = None) -> Stream:
        stream = self.open(resumable=resumable, key=key)
        self.streams.deliver(Accepted(stream.id, 3, 100))
        self.streams.deliver(Step(prefill=[(stream.id, 3, 3)]))
        self.streams.deliver(Step(deltas=[(stream.id, [1], "x")]))
        return stream

    def finished(self, key: str | None = None) -> Stream:
        stream = self.running(key=key)
        self.streams.deliver(Step(finished=[finish(stream.id)]))
        return stream

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.streams.tick()


def test_ids_are_128_random_bits() -> None:
    """An id is a capability: 32 hex digits, never the same."""
    house = House()
    ids = {house.open().id for _ in range(4)}
    assert len(ids) == 4 and all(len(id) == 32 and int(id, 16) >= 0 for id in ids)


def test_a_seed_is_settled_before_the_engine_sees_the_order() -> None:
    """None given: a random one in 0 .. 2**32-2. One given: that one."""
    house = House()
    seeds = {house.open().submit.sampling.seed for _ in range(3)}
    assert len(seeds) > 1 and all(0 <= seed < 2**32 - 1 for seed in seeds)
    assert house.open(order=Order(sampling=Sampling(seed=0), text="x", seed=5)).submit.sampling.seed == 5


def test_no_place_no_stream() -> None:
    """A refused request leaves nothing behind and reaches no engine."""
    house = House()
    for _ in range(4):
        house.open()
    with pytest.raises(QueueFull):
        house.open()
    assert (len(house.engine.submitted), house.streams.n_live) == (4, 4)


def test_the_engines_refusal_ends_it_without_an_event() -> None:
    """A prompt that is too long is the handler's 400; the stream is gone, and its place free."""
    house = House()
    stream = house.open(key="k")
    house.streams.deliver(Refused(stream.id, "context_length_exceeded", "9 tokens, 4 allowed"))
    assert stream.error is not None
    assert (stream.error.status, stream.error.code) == (400, "context_length_exceeded")
    assert None is house.streams.find(stream.id)
    assert None is house.streams.by_key("", "k", ORDER)
    assert house.admission.n_tickets == 0


def test_any_refusal_of_the_engine_is_the_clients_fault() -> None:
    """A code that we do not know is a 400 under its own name; what is no code is not passed on."""
    house = House()
    for code, expected in (("no_chat_template", "no_chat_template"), ("Oh no!\n", "invalid_request")):
        stream = house.open()
        house.streams.deliver(Refused(stream.id, code, "no"))
        assert stream.error is not None
        assert (400, expected) == (stream.error.status, stream.error.code)


def test_frames_for_ended_streams_are_ignored() -> None:
    """What the engine says after a cancel, or of an id it made up, changes nothing."""
    house = House()
    stream = house.running()
    house.streams.cancel(stream)
    length = len(stream.log)
    for id in (stream.id, "unknown"):
        house.streams.deliver(Accepted(id, 3, 100))
        house.streams.deliver(
            Step(
                queued=[(id, 1)],
                prefill=[(id, 1, 3)],
                deltas=[(id, [1], "late")],
                finished=[finish(id)],
            )
        )
    assert length == len(stream.log)
    assert house.observer.outcomes == ["cancelled"]


def test_cancel_tells_the_engine_and_counts_once() -> None:
    """A cancelled stream ends at once; cancelling it again does nothing."""
    house = House()
    stream = house.running()
    house.streams.cancel(stream)
    house.streams.cancel(stream)
    assert [stream.id] == house.engine.cancelled
    assert house.observer.outcomes == ["cancelled"]
    assert house.admission.n_tickets == 0


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
    """Its readers may be gone for resume_grace_s; one that comes back in time stops the clock."""
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


def test_a_stream_that_nobody_ever_reads_is_given_up() -> None:
    """POST /v1/streams without a reader within the grace does not run for ever."""
    house = House(resume_grace_s=30)
    stream = house.running(resumable=True)
    house.pass_time(30)
    assert stream.outcome == "client_left"


def test_a_finished_stream_is_not_cancelled_by_its_readers() -> None:
    """Leaving after the end is no event."""
    house = House()
    stream = house.running()
    with house.streams.attach(stream, stall=lambda: None):
        house.streams.deliver(Step(finished=[finish(stream.id)]))
    assert house.observer.outcomes == ["stop"]
    assert house.engine.cancelled == []


def test_waiting_ends_at_the_queue_timeout() -> None:
    """Not begun in time: cancelled at the engine, and a failure with a time to come back. Begun: it may go on."""
    house = House(queue_timeout_s=60)
    started, waiting, silent = house.running(), house.open(), house.open()
    house.streams.deliver(Accepted(waiting.id, 3, 100))
    with ExitStack() as readers:
        for stream in (started, waiting, silent):
            readers.enter_context(house.streams.attach(stream, stall=lambda: None))
        house.pass_time(59)
        assert waiting.open
        house.pass_time(1)
        assert started.open
    for stream in (waiting, silent):
        assert stream.error is not None
        assert (stream.error.code, stream.error.status) == ("queue_timeout", 503)
        assert stream.error.retry_after_s is not None
    assert [waiting.id, silent.id] == house.engine.cancelled[:2]


def test_an_engine_that_stays_down_ends_every_stream() -> None:
    """Each gets one failure, every ticket is free, and new ones are refused until it is back."""
    house = House()
    streams = [house.running(), house.open()]
    house.streams.lost(lambda: NotReady("restarting"), True)
    assert all(isinstance(stream.error, EngineCrash) for stream in streams)
    assert (house.streams.n_live, house.admission.n_tickets) == (0, 0)
    with pytest.raises(NotReady):
        house.open()
    house.streams.ready(ready(n_seq=2))
    assert house.open().open


def test_a_dead_engine_ends_no_stream() -> None:
    """New ones are refused until it is back; then it is sent every live one, with the tokens that were delivered."""
    house = House()
    stream, silent = house.running(), house.open()
    house.streams.lost(lambda: NotReady("restarting"), False)
    assert stream.open and silent.open and house.admission.n_tickets == 2
    with pytest.raises(NotReady):
        house.open()
    n_events = len(stream.log)
    house.streams.ready(ready(n_seq=2))
    assert house.engine.submitted[2:] == [replace(stream.submit, delivered=[1])]
    house.streams.deliver(Accepted(stream.id, 3, 100))
    house.streams.deliver(Step(prefill=[(stream.id, 4, 3)]))
    house.streams.deliver(Step(deltas=[(stream.id, [2], "y")]))
    assert house.engine.submitted[3:] == [silent.submit], "one after the other"
    assert house.observer.n_continued == 2
    house.streams.deliver(Step(finished=[finish(stream.id)]))
    assert b"".join(stream.log[n_events:]).startswith(b"id: %b.%d." % (stream.id.encode(), n_events))
    assert stream.summary is not None and stream.summary.finish_reason == "stop"


def test_tokens_that_were_held_back_are_made_again() -> None:
    """What had no text yet was not delivered: the next engine starts before it, and nothing is counted twice."""
    house = House()
    stream = house.running()
    house.streams.deliver(Step(deltas=[(stream.id, [2, 3], "y")]))
    house.streams.lost(lambda: NotReady("restarting"), False)
    house.streams.ready(ready(n_seq=2))
    assert house.engine.submitted[-1].delivered == [1, 2, 3]
    assert sum(stream.weights) == 3


def test_a_poisonous_request_dies_alone() -> None:
    """It kills the engine twice, the second time without its neighbours, and fails; they go on."""
    house = House()
    neighbour, poison = house.running(), house.running()
    house.streams.lost(lambda: NotReady("restarting"), False)
    house.streams.ready(ready(n_seq=2))
    house.streams.deliver(Step(deltas=[(neighbour.id, [2], "y")]))
    assert [s.id for s in house.engine.submitted[2:]] == [neighbour.id, poison.id]
    house.streams.lost(lambda: NotReady("restarting"), False)
    assert isinstance(poison.error, EngineCrash) and neighbour.open
    house.streams.ready(ready(n_seq=2))
    assert [s.id for s in house.engine.submitted[4:]] == [neighbour.id]


def test_the_end_of_the_drain_fails_what_is_left() -> None:
    """Each live stream is cancelled at the engine and told why."""
    house = House()
    stream = house.running()
    house.streams.fail_all(lambda: ShuttingDown("bye"))
    assert stream.outcome == "shutting_down"
    assert [stream.id] == house.engine.cancelled


def test_a_finished_stream_can_be_read_for_its_time_to_live() -> None:
    """Then it is forgotten, and its key with it."""
    house = House(stream_ttl_s=300)
    stream = house.finished(key="k")
    house.pass_time(299)
    assert stream is house.streams.find(stream.id)
    assert stream is house.streams.by_key("", "k", ORDER)
    house.pass_time(1)
    assert None is house.streams.find(stream.id)
    assert None is house.streams.by_key("", "k", ORDER)
    assert repr(house.streams) == "<Streams 0 live, 0 finished, 0 readers>"


@pytest.mark.parametrize("limits", [{"max_finished": 3}, {"max_finished_bytes": 2500}])
def test_finished_streams_are_bounded(limits: dict[str, float]) -> None:
    """In number and in bytes; the oldest goes first."""
    house = House(**limits)
    streams = [house.finished() for _ in range(10)]
    house.streams.tick()
    kept = [stream for stream in streams if house.streams.find(stream.id)]
    assert streams[-len(kept) :] == kept
    assert 1 <= len(kept) <= 3


def test_a_key_finds_its_stream() -> None:
    """Alive or finished, for the same order only, and for the same tenant only."""
    house = House()
    stream = house.open(key="k")
    assert stream is house.streams.by_key("", "k", ORDER)
    assert None is house.streams.by_key("other tenant", "k", ORDER)
    assert None is house.streams.by_key("", "other key", ORDER)
    with pytest.raises(KeyReused):
        house.streams.by_key("", "k", Order(sampling=Sampling(seed=0), text="another prompt"))


def test_a_forgotten_key_may_be_used_again() -> None:
    """And forgetting the first stream later does not take the key from the second."""
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
    """Any order of arrivals, frames, departures, cancels, crashes and time keeps the books true."""

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
    def come_back(self, data: st.DataObject) -> None:
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
        frames: dict[str, Accepted | Refused | Step] = {
            "accept": Accepted(id, 3, 100),
            "refuse": Refused(id, "no", "no"),
            "queued": Step(queued=[(id, 1)]),
            "prefill": Step(prefill=[(id, 3, 3)]),
            "delta": Step(deltas=[(id, [1], "x")]),
            "finish": Step(finished=[finish(id)]),
        }
        self.house.streams.deliver(frames[kind])

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
        self.house.streams.lost(lambda: NotReady("restarting"), stays_down)
        failed = [s for s in self.streams if s.id in before and not s.open]
        assert all(isinstance(s.error, EngineCrash) for s in failed)
        assert not stays_down or len(failed) == len(before)
        self.house.streams.ready(ready(n_seq=2))
        for s in self.streams:
            assert not s.open or len(s.log) == before[s.id], "a pause is no event"

    @invariant()
    def the_books_are_true(self) -> None:
        streams, live = self.house.streams, [s for s in self.streams if s.open]
        assert streams.n_live == len(live) == self.house.admission.n_tickets
        assert self.house.admission.n_running == sum(s.started_at is not None for s in live)
        assert len(self.house.observer.outcomes) == self.n_opened - len(live)
        assert streams.n_readers == len(self.reading) == sum(len(s.readers) for s in self.streams)
        assert set(streams._deserted) == {s.id for s in live if not s.readers}
        assert streams._finished_bytes == sum(s.n_bytes for s in streams._finished.values())
        assert {id for id, _ in streams._keys.values()} == set(streams._key_of)

    @invariant()
    def every_log_has_at_most_one_end(self) -> None:
        for stream in self.streams:
            raw = b"".join(stream.log)
            ends = raw.count(b"event: done") + raw.count(b"event: failure")
            assert ends == (0 if stream.open or not stream.log else 1)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
