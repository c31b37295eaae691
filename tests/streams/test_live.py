from __future__ import annotations

from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from service.dialects import sse
from service.errors import EngineCrash, NotReady
from service.protocol.deaths import Kind
from service.protocol.frames import Accepted, Rejected, Step, Submit
from service.protocol.sampling import Sampling
from service.streams.recovery import TRIAL_S
from tests.fakes import finish, ready
from tests.house import ORDER, House


def test_the_engines_refusal_ends_the_stream_without_an_event() -> None:
    """A prompt that is too long becomes the handler's 400; the stream is removed, and its place free."""
    house = House()
    stream = house.open(key="k")
    house.streams.live.deliver(Rejected(stream.id, "context_length_exceeded", "9 tokens, 4 allowed"))
    assert stream.error is not None
    assert (stream.error.status, stream.error.code) == (400, "context_length_exceeded")
    assert None is house.streams.find(stream.id)
    assert None is house.streams.by_key("", "k", ORDER)
    assert house.admission.n_tickets == 0


def test_any_refusal_of_the_engine_is_a_400() -> None:
    """An unknown code is a 400 under its own name; an invalid code is not passed on."""
    house = House()
    for code, expected in (("no_chat_template", "no_chat_template"), ("Oh no!\n", "invalid_request")):
        stream = house.open()
        house.streams.live.deliver(Rejected(stream.id, code, "no"))
        assert stream.error is not None
        assert (400, expected) == (stream.error.status, stream.error.code)


def test_a_refusal_names_the_field() -> None:
    """It is the engine's param, or else `prompt`."""
    house = House()
    for param, expected in (("grammar", "grammar"), (None, "prompt")):
        stream = house.open()
        house.streams.live.deliver(Rejected(stream.id, "invalid_request", "no", param))
        assert stream.error is not None
        assert (400, expected) == (stream.error.status, stream.error.param)


def test_exact_if_every_engine_was() -> None:
    """A stream is exact if all engines that it was sent to are; for one that another replica began it is unknown."""
    for before, after, expected in ((True, True, True), (True, False, False), (False, True, False)):
        house = House()
        house.streams.live.ready(ready(exact=before))
        stream = house.running()
        assert stream.exact == before
        house.streams.live.lost(lambda: NotReady("restarting"), False)
        house.streams.live.ready(ready(exact=after))
        assert stream.n_lives == 2 and stream.exact == expected
    stream = house.remake(Submit(id="a", sampling=Sampling(seed=7), text="hi"))
    stream.take_over(house.admission.admit(), 0.0)
    stream.submission(exact=True)
    assert stream.exact is None


def test_frames_for_ended_streams_are_ignored() -> None:
    """Frames after a cancel, or for an unknown id, change nothing."""
    house = House()
    stream = house.running()
    house.streams.cancel(stream)
    length = len(stream.log)
    for id in (stream.id, "unknown"):
        house.streams.live.deliver(Accepted(id, 3, 100))
        house.streams.live.deliver(
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


def test_waiting_ends_at_the_queue_timeout() -> None:
    """A stream that has not started in time is cancelled at the engine and fails with Retry-After; a started one
    continues."""
    house = House(queue_timeout_s=60)
    started, waiting, silent = house.running(), house.open(), house.open()
    house.streams.live.deliver(Accepted(waiting.id, 3, 100))
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
    """Each gets one failure, every ticket is released, and new ones are refused until the engine is back."""
    house = House()
    streams = [house.running(), house.open()]
    house.streams.live.lost(lambda: NotReady("restarting"), True)
    assert all(isinstance(stream.error, EngineCrash) for stream in streams)
    assert (house.streams.n_made, house.admission.n_tickets) == (0, 0)
    with pytest.raises(NotReady):
        house.open()
    house.streams.live.ready(ready(n_seq=2))
    assert house.open().open


def test_a_dead_engine_ends_no_stream() -> None:
    """New streams are refused until the engine is back; then it is sent every live one, with the delivered tokens."""
    house = House()
    stream, silent = house.running(), house.open()
    house.streams.live.lost(lambda: NotReady("restarting"), False)
    assert stream.open and silent.open and house.admission.n_tickets == 2
    with pytest.raises(NotReady):
        house.open()
    n_events = len(stream.log)
    house.streams.live.ready(ready(n_seq=2))
    assert house.engine.submitted[2:] == [silent.submit], "the more suspect one first"
    house.streams.live.deliver(Accepted(silent.id, 3, 100))
    house.streams.live.deliver(Step(prefill=[(silent.id, 4, 3)]))
    house.pass_time(TRIAL_S)
    house.streams.live.deliver(Step())
    assert house.engine.submitted[3:] == [replace(stream.submit, delivered=[1])], "one after another"
    house.streams.live.deliver(Step(deltas=[(stream.id, [2], "y")]))
    assert house.observer.n_continued == 2
    house.streams.live.deliver(Step(finished=[finish(stream.id)]))
    assert b"".join(stream.log[n_events:]).startswith(b"id: %b.%d." % (stream.id.encode(), n_events))
    assert stream.summary is not None and stream.summary.finish_reason == "stop"


def test_held_back_tokens_are_generated_again() -> None:
    """A token without text yet was not delivered: the next engine starts before it, and nothing is counted twice."""
    house = House()
    stream = house.running()
    house.streams.live.deliver(Step(deltas=[(stream.id, [2, 3], "y")]))
    house.streams.live.lost(lambda: NotReady("restarting"), False)
    house.streams.live.ready(ready(n_seq=2))
    assert house.engine.submitted[-1].delivered == [1, 2, 3]
    assert sum(stream.log.weights) == 3


def test_a_poisonous_request_fails_alone() -> None:
    """It kills the engine three times, at last without its neighbours, and fails; they continue."""
    house = House()
    neighbour, poison = house.running(), house.running()
    house.streams.live.lost(lambda: NotReady("restarting"), False)
    house.streams.live.ready(ready(n_seq=2))
    house.streams.live.deliver(Step(deltas=[(neighbour.id, [2], "y")]))
    assert [s.id for s in house.engine.submitted[2:]] == [neighbour.id, poison.id]
    house.streams.live.lost(lambda: NotReady("restarting"), False)
    house.streams.live.ready(ready(n_seq=2))
    assert [s.id for s in house.engine.submitted[4:]] == [poison.id]
    house.streams.live.lost(lambda: NotReady("restarting"), False)
    assert isinstance(poison.error, EngineCrash) and neighbour.open
    house.streams.live.ready(ready(n_seq=2))
    assert [s.id for s in house.engine.submitted[5:]] == [neighbour.id]


def test_a_silent_suspect_does_not_delay_others() -> None:
    """After a crash the others wait for a suspect no longer than its trial lasts."""
    house = House()
    silent, neighbour = house.running(), house.running()
    for _ in range(2):
        house.streams.live.lost(lambda: NotReady("restarting"), False)
        house.streams.live.ready(ready(n_seq=2))
        assert house.engine.submitted[-1].id == silent.id
        house.pass_time(TRIAL_S)
        house.streams.live.deliver(Step())
        assert house.engine.submitted[-1].id == neighbour.id
        house.streams.live.deliver(Step(deltas=[(neighbour.id, [2], "y")]))


@pytest.mark.parametrize("kind", [Kind.OUTSIDE, Kind.LOADING, Kind.OWN, Kind.HANG])
def test_deaths_that_no_request_caused_end_no_stream(kind: Kind) -> None:
    """After repeated external kills, errors in the engine's own code, hangs and failed loads, streams that make
    progress in between are all resubmitted at once."""
    house = House()
    streams = [house.running(), house.running()]
    for _ in range(7):
        house.streams.live.lost(lambda: NotReady("restarting"), False, kind)
        n = len(house.engine.submitted)
        house.streams.live.ready(ready(n_seq=2))
        assert [s.id for s in house.engine.submitted[n:]] == [s.id for s in streams]
        house.streams.live.deliver(Step(deltas=[(s.id, [1], "x") for s in streams]))
    assert all(s.open for s in streams)


def test_text_released_by_the_end_is_logged_with_the_end() -> None:
    """Text that was held back for a stop string is logged with the end or not at all: an engine that continued after
    its tokens without the end would send it again."""
    house = House()
    stream = house.running()
    house.streams.live.deliver(Step(deltas=[(stream.id, [7], "foo")]))
    n_before = len(stream.log)
    house.streams.live.deliver(Step(deltas=[(stream.id, [8], "<"), (stream.id, [], "e")], finished=[finish(stream.id)]))
    assert stream.n_before_end == n_before + 1
    assert [sse.bare(event) for event in stream.log[n_before:-1]] == [
        b'data: {"text":"<"}\n\n',
        b'data: {"text":"e"}\n\n',
    ]
    assert stream.tokens[-2:] == [7, 8]
