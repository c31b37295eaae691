from __future__ import annotations

import math

import pytest

from service.dialects.events import Phase
from service.errors import QueueTimeout
from service.replication.logged_stream import LoggedStream
from service.replication.records import End, Event, LogPosition, decode
from service.replication.store import StoreDown
from service.replication.writer import MAX_ENDED, MAX_ENTRIES, Writer
from service.streams.stream import Stream
from tests.fakes import background, finish, turns
from tests.house import House
from tests.memory_store import MemoryStore


class Observer:
    """Records its notifications."""

    def __init__(self) -> None:
        self.n_acknowledged = 0
        self.n_fenced = 0

    def acknowledged(self, wait_s: float, /) -> None:
        self.n_acknowledged += 1

    def fenced(self) -> None:
        self.n_fenced += 1


class World:
    """A writer with its store; the streams come from a registry that knows neither."""

    def __init__(self, log_wait_s: float = 60.0) -> None:
        self.store, self.observer, self.house = MemoryStore(), Observer(), House()
        self.lost: list[tuple[LoggedStream, LogPosition]] = []
        self.writer = Writer(
            store=self.store,
            log_wait_s=log_wait_s,
            observer=self.observer,
            lost=lambda copy, place: self.lost.append((copy, place)),
        )

    def begin(self, *texts: str) -> Stream:
        stream = self.house.open()
        self.writer.begin(stream, b"record")
        stream.accept(3, 0.0)
        self.say(stream, *texts)
        return stream

    def say(self, stream: Stream, *texts: str) -> None:
        for text in texts:
            stream.delta([7], text, self.house.clock())

    def copied(self, stream: Stream) -> list[bytes]:
        """The events that the store holds, in its order."""
        events: list[bytes] = []
        for _, payload in self.store.logs.get(stream.id, []):
            if payload:
                said = decode(stream.id, payload)
                events += [said.event] if isinstance(said, Event) else said.events
        return events


async def test_readers_wait_for_the_store() -> None:
    """An event can be read when the store has it, not before."""
    world = World()
    world.store.gate.clear()
    async with background(world.writer.run):
        stream = world.begin("a")
        await turns(lambda: bool(world.store.writes))
        assert (stream.log.is_durable, stream.log.n_visible) == (True, 0)
        world.store.gate.set()
        await turns(lambda: stream.log.n_visible == len(stream.log))
    assert world.copied(stream) == stream.log
    assert world.observer.n_acknowledged == 1


async def test_events_during_a_write_are_in_the_next_one() -> None:
    """There is one write at a time; all streams' events since then are one more."""
    world = World()
    world.store.gate.clear()
    async with background(world.writer.run):
        one = world.begin("a")
        await turns(lambda: len(world.store.writes) == 1)
        two = world.begin("x")
        world.say(one, "b", "c")
        world.store.gate.set()
        await turns(lambda: one.log.n_visible == len(one.log) and two.log.n_visible == len(two.log))
    assert [[write.id for write in writes] for writes in world.store.writes] == [[one.id], [one.id, two.id]]
    assert (world.copied(one), world.copied(two)) == (one.log, two.log)
    assert [write.record for write in world.store.writes[1]] == [None, b"record"], "a record is written once"


async def test_a_slow_store_does_not_delay_readers() -> None:
    """After log_wait_s they get the events, not durable; when the store has caught up they wait for it again."""
    world = World(log_wait_s=0.0)
    world.store.gate.clear()
    async with background(world.writer.run):
        stream = world.begin("a")
        await turns(lambda: stream.log.n_visible == len(stream.log))
        assert (stream.log.is_durable, world.writer.is_behind, world.writer.n_not_durable) == (False, True, 1)
        assert not world.begin("b").log.is_durable, "a new one does not wait, either"
        world.store.gate.set()
        await turns(lambda: stream.log.is_durable and not world.writer.is_behind)
    assert world.copied(stream) == stream.log


async def test_a_writer_without_a_lease_delivers_only_what_is_logged() -> None:
    """From when another replica may have adopted its streams, as after a pause of this one, the store's answer comes
    first, however long it takes: no timeout counts, nor a failure, nor that readers were ahead."""
    world = World(log_wait_s=0.0)
    world.store.gate.clear()
    async with background(world.writer.run):
        stream = world.begin("a")
        await turns(lambda: not stream.log.is_durable)
        n_shown = len(stream.log)
        world.writer.held_until = 0.0
        world.say(stream, "b")
        world.writer._waited()
        world.writer._fail(StoreDown("it did not answer in time"), is_news=True)
        assert (stream.log.is_durable, stream.log.n_visible) == (True, n_shown)
        world.writer.held_until = math.inf
        world.writer._waited()
        assert (stream.log.is_durable, stream.log.n_visible) == (False, n_shown + 1)


async def test_a_store_is_asked_what_it_has_after_a_failure() -> None:
    """Lost entries are written again under the same numbers, the others are not."""
    world = World()
    stream = world.begin("a", "b", "c")
    await world.writer.flush()
    world.store.fails = True
    async with background(world.writer.run):
        world.say(stream, "d")
        await turns(lambda: not stream.log.is_durable)
        world.store.lose(stream.id, 3)
        world.store.fails = False
        await turns(lambda: stream.log.is_durable)
    assert world.copied(stream) == stream.log
    assert world.writer.failed_at > 0


async def test_a_store_that_lost_a_whole_stream_gets_it_again() -> None:
    """With its record, so that another replica can adopt it."""
    world = World()
    stream = world.begin("a")
    await world.writer.flush()
    world.store.lose(stream.id, 0)
    world.store.records.clear()
    world.writer.doubt(stream.id)
    await world.writer.flush()
    assert world.copied(stream) == stream.log
    assert world.store.records == {stream.id: b"record"}


async def test_another_owner_ends_the_writing() -> None:
    """A log that continues in a higher epoch has another owner: reported once, with its end."""
    world = World()
    stream = world.begin("a")
    await world.writer.flush()
    world.store.put(stream.id, LogPosition(2, 0), b"")
    world.say(stream, "b")
    await world.writer.flush()
    assert [(copy.stream, place) for copy, place in world.lost] == [(stream, LogPosition(2, 0))]
    assert (world.writer.copies, world.observer.n_fenced) == ({}, 1)
    assert world.copied(stream) == stream.log[:-1]


async def test_an_adopted_stream_is_written_from_its_end_on() -> None:
    """In the new epoch, after the existing entries."""
    world = World()
    stream = world.house.running()
    n = len(stream.log)
    for number, event in enumerate(stream.log, 1):
        world.store.put(stream.id, LogPosition(1, number), event)
    await world.store.claim(stream.id, 2)
    world.writer.inherit(stream, 2, b"record", None, n_logged=n)
    world.say(stream, "b")
    await world.writer.flush()
    ((write,),) = world.store.writes
    assert (write.epoch, write.first, len(write.payloads), write.record) == (2, n + 1, 1, None)


async def test_the_end_is_one_entry() -> None:
    """The last events with the outcome and the summary; then the writer is done with it."""
    world = World()
    stream = world.begin("a")
    stream.finish(finish(stream.id), world.house.clock())
    await world.writer.flush()
    said = decode(stream.id, world.store.logs[stream.id][-1][1])
    assert isinstance(said, End) and said.summary == stream.summary and said.outcome == "stop"
    assert world.copied(stream) == stream.log
    assert world.store.writes[-1][0].is_last and not world.writer.copies


async def test_tokens_are_logged_with_the_event_of_their_text() -> None:
    """An adopter with n events has their tokens, and no others."""
    world = World()
    stream = world.begin("a")
    stream.delta([8], "", world.house.clock())
    stream.delta([9, 10], "b", world.house.clock())
    await world.writer.flush()
    said = [decode(stream.id, payload) for _, payload in world.store.logs[stream.id] if payload]
    tokens = [entry.tokens for entry in said if isinstance(entry, Event) and entry.tokens]
    assert tokens == [[7], [8, 9, 10]]
    assert isinstance(said[-1], Event) and said[-1].phase is Phase.ANSWERING


async def test_a_stream_that_was_not_accepted_is_dropped() -> None:
    """It ended before the engine accepted its prompt: nothing of it stays."""
    world = World()
    stream = world.house.open()
    world.writer.begin(stream, b"record", "t:k")
    stream.fail(QueueTimeout("late"), world.house.clock())
    await world.writer.flush()
    assert (world.store.dropped, world.store.logs, world.writer.copies) == ([stream.id], {}, {})


async def test_a_write_is_bounded() -> None:
    """MAX_ENTRIES at once; the rest is in the next ones."""
    world = World()
    stream = world.begin(*["x"] * (MAX_ENTRIES + 10))
    async with background(world.writer.run):
        await turns(lambda: stream.log.n_visible == len(stream.log))
    sizes = [sum(len(write.payloads) for write in writes) for writes in world.store.writes]
    assert max(sizes) <= MAX_ENTRIES and sum(sizes) == len(stream.log)


async def test_ended_streams_do_not_pile_up() -> None:
    """While the store is down, only the last MAX_ENDED wait for it."""
    world = World()
    for _ in range(MAX_ENDED + 5):
        stream = world.begin("a")
        stream.finish(finish(stream.id), world.house.clock())
    world.store.fails = True
    with pytest.raises(StoreDown):
        await world.writer.flush()
    async with background(world.writer.run):
        await turns(lambda: len(world.writer.copies) == MAX_ENDED)
