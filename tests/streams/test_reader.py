from __future__ import annotations

import asyncio

import pytest

from service.dialects import sse
from service.errors import EngineCrash
from service.streams.pace import Pace
from service.streams.reader import MAX_WRITE_BYTES, Reader
from service.streams.stream import Stream
from tests.fakes import Clock, finish, turns
from tests.streams.test_stream import ID, stream


def answering(*words: str) -> Stream:
    one = stream()
    one.accept(3, 0.0)
    for word in words:
        one.delta([1], word, 101.0)
    return one


def reader(of: Stream, clock: Clock, *, place: int = 0, pace: float | None = None) -> Reader:
    made = Reader(of, place=place, pace=pace, clock=clock)
    of.log.readers.append(made)
    return made


async def test_all_ready_events_go_out_in_one_write() -> None:
    """Several events ready at one wake-up make one write, in order, and then nothing is left."""
    one = answering("a", "b", "c")
    assert b"".join(one.log) == await reader(one, Clock()).next()


async def test_a_reader_wakes_when_the_log_grows() -> None:
    """Waiting costs nothing and ends with the next event."""
    one = answering("a")
    mine = reader(one, Clock())
    await mine.next()
    waiting = asyncio.create_task(mine.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    one.delta([1], "b", 102.0)
    assert one.log[-1] == await waiting


async def test_the_end_comes_after_the_last_event() -> None:
    """A closed log read to its end yields b"", also for a reader that attaches later."""
    one = answering("a")
    mine = reader(one, Clock())
    one.finish(finish(ID), 103.0)
    assert b"".join(one.log) == await mine.next()
    assert await mine.next() == b""


async def test_readers_do_not_wait_for_each_other() -> None:
    """Each has its own place in the same log and gets the same bytes."""
    one = answering("a")
    quick, slow = reader(one, Clock()), reader(one, Clock())
    got = await quick.next()
    one.delta([1], "b", 102.0)
    got += await quick.next()
    assert got == await slow.next()


async def test_a_resuming_reader_gets_a_byte_at_once() -> None:
    """At the live edge there is no event to send, but the headers must be sent: a heartbeat goes first."""
    one = answering("a")
    mine = reader(one, Clock(), place=len(one.log))
    assert await mine.next() == sse.HEARTBEAT


async def test_a_heartbeat_is_sent_after_silence_and_only_then() -> None:
    """The silence since the last write counts, not the time since the reader attached."""
    clock = Clock()
    one = answering("a")
    mine = reader(one, clock)
    await mine.next()
    waiting = asyncio.create_task(mine.next())
    await asyncio.sleep(0)
    clock.advance(14.9)
    mine.tick(clock(), heartbeat_s=15, write_timeout_s=30)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(0.1)
    mine.tick(clock(), heartbeat_s=15, write_timeout_s=30)
    assert await waiting == b": hb\n"


async def test_a_stalled_write_is_aborted_once() -> None:
    """A reader that takes nothing for the write timeout is dropped; one that only waits is not."""
    clock = Clock()
    stalls: list[float] = []
    one = answering("a")
    mine = Reader(one, clock=clock, stall=lambda: stalls.append(clock()))
    await mine.next()  # handed out, and next() is not called again: the write is under way
    for _ in range(4):
        clock.advance(10)
        mine.tick(clock(), heartbeat_s=100, write_timeout_s=30)
    assert stalls == [1030.0]


async def test_a_long_log_goes_out_in_bounded_writes() -> None:
    """A late reader gets backpressure between writes of about MAX_WRITE_BYTES, and misses nothing."""
    one = answering(*["x" * 10_000] * 20)
    one.finish(finish(ID), 103.0)
    mine = reader(one, Clock())
    writes = []
    while chunk := await mine.next():
        writes.append(chunk)
    assert b"".join(one.log) == b"".join(writes)
    assert max(map(len, writes)) < MAX_WRITE_BYTES + 11_000


async def test_admitted_raises_an_earlier_error() -> None:
    """A stream that the engine never admitted has no event: its reader gets the error for the status line."""
    one = stream()
    mine = reader(one, Clock())
    waiting = asyncio.create_task(mine.admitted())
    await asyncio.sleep(0)
    one.fail(EngineCrash("gone"), 101.0)
    with pytest.raises(EngineCrash):
        await waiting


async def test_admitted_does_not_raise_a_later_failure() -> None:
    """Once there are events, the failure is one of them."""
    one = answering("a")
    one.fail(EngineCrash("gone"), 103.0)
    await reader(one, Clock()).admitted()


async def test_closed_waits_for_the_end() -> None:
    """A reader of the whole answer waits through all events."""
    one = answering("a")
    mine = reader(one, Clock())
    waiting = asyncio.create_task(mine.closed())
    for word in ("b", "c"):
        await asyncio.sleep(0)
        one.delta([1], word, 102.0)
    await asyncio.sleep(0)
    assert not waiting.done()
    one.finish(finish(ID), 103.0)
    await waiting


async def test_cancelling_a_wait_leaves_the_reader_usable() -> None:
    """A cancelled wait loses no event: the next one starts at the same place."""
    one = answering("a")
    mine = reader(one, Clock())
    await mine.next()
    waiting = asyncio.create_task(mine.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    one.delta([1], "b", 102.0)
    assert one.log[-1] == await mine.next()


class FakeWire:
    """Records what it is given, and is free for as long as the test says."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.sent: list[bytes] = []
        self.has_room = True

    def is_free(self) -> bool:
        return self.has_room

    def write(self, chunk: bytes, /) -> None:
        self.written.append(chunk)

    async def send(self, chunk: bytes, /) -> None:
        self.sent.append(chunk)


class Attached:
    """A reader with a wire, and the task that stands for a handler; `returned` has what the task sent."""

    def __init__(self, of: Stream, clock: Clock, *, pace: float | None = None) -> None:
        self.wire = FakeWire()
        self.returned = self.wire.sent
        self.reader = reader(of, clock, pace=pace)
        self.task = asyncio.create_task(self.reader.send(self.wire))


async def test_a_reader_at_the_live_edge_writes_without_its_task() -> None:
    """The events of one turn of the loop are one write, and are sent once; earlier ones are sent by the task."""
    one, clock = answering("a"), Clock()
    mine = Attached(one, clock)
    await asyncio.sleep(0)
    for words in ("b", "cd"):
        for word in words:
            one.delta([1], word, 102.0)
        await asyncio.sleep(0)
    assert mine.wire.written == [one.log[3], b"".join(one.log[4:6])]
    assert mine.returned == [b"".join(one.log[:3])]
    assert one.log.n_sent == len(one.log)


async def test_a_full_wire_falls_back_to_the_task() -> None:
    """What does not fit is sent by next(), in order, together with all that arrives before the task's turn."""
    one = answering("a")
    mine = Attached(one, Clock())
    await asyncio.sleep(0)
    mine.wire.has_room = False
    one.delta([1], "b", 102.0)
    await asyncio.sleep(0)  # the wire is full; the task is woken, and has not run yet
    mine.wire.has_room = True
    one.delta([1], "c", 102.0)
    await turns(lambda: len(mine.returned) == 2)
    assert mine.wire.written == []
    assert mine.returned[1:] == [b"".join(one.log[3:])]


async def test_a_task_that_writes_is_not_overtaken() -> None:
    """Nothing is written directly while the task's send is in progress."""
    one, wire, proceed = answering("a"), FakeWire(), asyncio.Event()

    async def send(chunk: bytes) -> None:
        wire.sent.append(chunk)
        await proceed.wait()

    wire.send = send  # type: ignore[method-assign]  # a slow client's
    task = asyncio.create_task(reader(one, Clock()).send(wire))
    await turns(lambda: len(wire.sent) == 1)
    one.delta([1], "b", 102.0)
    await asyncio.sleep(0)
    assert wire.written == []
    proceed.set()
    await turns(lambda: len(wire.sent) == 2)
    assert b"".join(wire.sent) == b"".join(one.log)
    task.cancel()


async def test_the_end_is_left_to_the_task() -> None:
    """next() returns b"" after a last event that was written directly: the response has its own end."""
    one = answering("a")
    mine = Attached(one, Clock())
    await asyncio.sleep(0)
    one.finish(finish(ID), 103.0)
    await mine.task
    assert b"".join([*mine.returned, *mine.wire.written]) == b"".join(one.log)


async def test_an_event_over_the_wire_puts_the_heartbeat_off() -> None:
    """The silence counts from it."""
    one, clock = answering("a"), Clock()
    mine = Attached(one, clock)
    await asyncio.sleep(0)
    clock.advance(10)
    one.delta([1], "b", 102.0)
    await asyncio.sleep(0)
    clock.advance(14.9)
    mine.reader.tick(clock(), heartbeat_s=15, write_timeout_s=30)
    await asyncio.sleep(0)
    assert sse.HEARTBEAT not in mine.returned
    clock.advance(0.1)
    mine.reader.tick(clock(), heartbeat_s=15, write_timeout_s=30)
    await asyncio.sleep(0)
    assert mine.returned[-1] == sse.HEARTBEAT


async def test_a_paced_reader_writes_nothing_over_the_wire() -> None:
    """Its events are due by the clock, not when they arrive."""
    one, clock = answering("a"), Clock()
    mine = Attached(one, clock, pace=20)
    await asyncio.sleep(0)
    one.delta([1], "b", 102.0)
    await asyncio.sleep(0)
    assert mine.wire.written == []
    mine.task.cancel()


async def test_a_broken_wire_affects_only_its_own_reader() -> None:
    """Others get the event, and next() returns it to the task, which meets the same error."""
    one = answering("a")
    mine, other = Attached(one, Clock()), Attached(one, Clock())
    await asyncio.sleep(0)

    def broken(chunk: bytes, /) -> None:
        raise RuntimeError("broken")

    mine.wire.write = broken  # type: ignore[method-assign]
    one.delta([1], "b", 102.0)
    await turns(lambda: len(mine.returned) == 2)
    assert other.wire.written == one.log[3:]
    assert mine.returned[1:] == one.log[3:]


def taken(mine: Reader, clock: Clock, *, for_s: float, every_s: float = 0.01) -> list[float]:
    """The times at which a paced reader's events become due, polled every_s."""
    times = []
    for _ in range(round(for_s / every_s)):
        while mine.take(clock())[0]:
            times.append(clock() - 1000.0)
        clock.advance(every_s)
    return times


def test_pace_spaces_events_evenly() -> None:
    """At 20 tokens a second, events are sent one by one every 50 ms, however many are ready."""
    one = answering(*"abcdefghij")
    clock = Clock()
    mine = reader(one, clock, place=2, pace=20)
    times = taken(mine, clock, for_s=1)
    assert [round(n * 0.05, 2) for n in range(10)] == [round(time, 2) for time in times]


def test_pace_does_not_hold_back_other_events() -> None:
    """Statuses and the end are not paced: only deltas have weight."""
    one = answering("a")
    one.finish(finish(ID), 103.0)
    clock = Clock()
    mine = reader(one, clock, pace=1)
    assert b"".join(one.log[:2]) == mine.take(clock())[0]
    assert one.log[2] == mine.take(clock())[0]
    assert one.log[3] == mine.take(clock())[0]


def test_pace_does_not_burst_after_a_stall() -> None:
    """After ten missed intervals the next events are still one interval apart."""
    one = answering("a")
    clock = Clock()
    mine = reader(one, clock, place=2, pace=20)
    assert len(taken(mine, clock, for_s=0.5)) == 1
    for word in "bcdef":
        one.delta([1], word, 102.0)
    times = taken(mine, clock, for_s=1)
    assert [round(time, 2) for time in times] == [0.5, 0.55, 0.6, 0.65, 0.7]


def test_pace_makes_up_for_a_small_delay() -> None:
    """A wake-up some milliseconds late does not slow the stream down: the rate is kept."""
    pace = Pace(10)
    pace.sent(1, 0.0)
    pace.sent(1, 0.13)
    assert round(pace.wait_s(0.13), 6) == 0.07


def test_pace_counts_tokens_not_events() -> None:
    """An event of three tokens is followed by three intervals."""
    pace = Pace(10)
    pace.sent(3, 50.0)
    assert round(pace.wait_s(50.0), 6) == 0.3


def test_a_failure_is_not_paced() -> None:
    """A slow reader learns of it at once: the events before it are sent with it, in order."""
    one = answering("a", "b", "c")
    clock = Clock()
    mine = reader(one, clock, place=2, pace=1)
    assert mine.take(clock())[0] == one.log[2]
    one.fail(EngineCrash("gone"), 103.0)
    assert mine.take(clock())[0] == b"".join(one.log[3:])


async def test_a_hurried_reader_has_no_pace() -> None:
    """At the end of a drain readers are not paced: the rest is sent at once."""
    one = answering("a", "b", "c")
    one.finish(finish(ID), 103.0)
    mine = reader(one, Clock(), place=2, pace=0.01)
    assert await mine.next() == one.log[2]
    waiting = asyncio.create_task(mine.next())
    await asyncio.sleep(0)
    mine.hurry()
    assert await waiting == b"".join(one.log[3:])


async def test_a_paced_reader_wakes_by_itself() -> None:
    """It sends what is due without waiting for a new event."""
    one = answering("a", "b")
    one.finish(finish(ID), 103.0)
    mine = Reader(one, pace=10_000, clock=asyncio.get_running_loop().time)
    chunks = []
    while chunk := await mine.next():
        chunks.append(chunk)
    assert [b"".join(one.log[:2]), one.log[2], one.log[3], one.log[4]] == chunks
