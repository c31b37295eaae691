from __future__ import annotations

import asyncio

import pytest

from service.dialects import sse
from service.dialects.events import Phase
from service.dialects.native import Native
from service.dialects.openai import Answer, Whole
from service.replication.follower import Follower
from service.replication.records import NOWHERE, End, Event, LogPosition, encode_end, encode_event
from service.streams.stream import Stream
from tests.fakes import SUMMARY, background, turns
from tests.house import House
from tests.memory_store import MemoryStore

ID = "0" * 32


class World:
    """A follower with its store and one stream of another replica; records its notifications."""

    def __init__(self) -> None:
        self.store, self.house = MemoryStore(), House()
        self.is_followed = True
        self.ends: list[Stream] = []
        self.contradictions: list[Stream] = []
        self.cancels: list[str] = []
        self.follower = Follower(store=self.store, sink=self, clock=self.house.clock)
        self.stream = self.house.remake(self.house.open().submit)
        self.n = 0

    def followed(self, id: str, /) -> Stream | None:
        return self.stream if id == self.stream.id and self.is_followed else None

    def ended(self, stream: Stream, /) -> None:
        self.ends.append(stream)

    def contradicted(self, stream: Stream, /) -> None:
        self.contradictions.append(stream)

    def cancelled(self, id: str, /) -> None:
        self.cancels.append(id)

    def event(self, n: int, text: str, checksum: int = 0) -> bytes:
        return sse.block(self.stream.id.encode(), n, checksum, Native().delta(text))

    def logs(
        self,
        text: str,
        *,
        epoch: int = 1,
        checksum: int = 0,
        number: int | None = None,
        phase: Phase = Phase.ANSWERING,
    ) -> None:
        """Its owner logs one more event, of one token."""
        n = self.n if number is None else number
        payload = encode_event(self.stream.id, Event(self.event(n, text, checksum), [7], phase))
        self.store.put(self.stream.id, LogPosition(epoch, n + 1), payload)
        self.n = n + 1

    def logs_the_end(self) -> None:
        done = sse.block(self.stream.id.encode(), self.n, 0, b"data: done")
        payload = encode_end(self.stream.id, End([done], "stop", SUMMARY))
        self.store.put(self.stream.id, LogPosition(1, self.n + 1), payload)


async def test_a_followed_stream_grows_with_its_log() -> None:
    """It gets events, tokens and phase as its owner logs them; after its end it is followed no more."""
    world = World()
    world.follower.add(world.stream, NOWHERE)
    async with background(world.follower.run):
        world.logs("a", phase=Phase.THINKING)
        await turns(lambda: len(world.stream.log) == 1)
        assert (world.stream.phase, world.stream.tokens, world.stream.log.n_visible) == (Phase.THINKING, [7], 1)
        world.logs("b")
        await turns(lambda: world.stream.phase is Phase.ANSWERING)
        world.logs_the_end()
        await turns(lambda: world.ends == [world.stream])
    assert world.stream.log[:2] == [world.event(0, "a"), world.event(1, "b")]
    assert (world.stream.outcome, world.stream.summary, world.follower._places) == ("stop", SUMMARY, {})


async def test_a_followed_answer_in_one_piece() -> None:
    """Its text and log-probabilities come with its end, and its memory is counted."""
    world, whole = World(), Whole(Answer("chat", model="m", fingerprint="f"))
    world.stream.take_back(whole)
    world.follower.add(world.stream, NOWHERE)
    async with background(world.follower.run):
        end = End([], "stop", SUMMARY, text="a b", logprobs=b'{"content":[]}')
        world.store.put(world.stream.id, LogPosition(1, 1), encode_end(world.stream.id, end))
        await turns(lambda: world.ends == [world.stream])
    assert (whole.text, whole.logprobs, whole.n_kept) == ("a b", b'{"content":[]}', 17)


async def test_a_stream_that_is_added_later_is_followed_at_once() -> None:
    """The wait for the other streams' entries is restarted."""
    world = World()
    async with background(world.follower.run):
        await asyncio.sleep(0)
        world.logs("a")
        world.follower.add(world.stream, NOWHERE)
        await turns(lambda: len(world.stream.log) == 1)


async def test_the_same_events_again_change_nothing() -> None:
    """A new owner writes events that are here already, under the same ids."""
    world = World()
    world.follower.add(world.stream, NOWHERE)
    async with background(world.follower.run):
        world.logs("a")
        world.logs("a", epoch=2, number=0)
        world.logs("b", epoch=2)
        await turns(lambda: len(world.stream.log) == 2)
    assert world.contradictions == []
    assert world.stream.tokens == [7, 7]


@pytest.mark.parametrize("what", ["other text", "a gap", "garbage", "another stream's"])
async def test_a_contradicting_log_is_reported(what: str) -> None:
    """The stream here stays unchanged, and is followed no more."""
    world = World()
    world.follower.add(world.stream, NOWHERE)
    async with background(world.follower.run):
        world.logs("a")
        await turns(lambda: len(world.stream.log) == 1)
        if what == "other text":
            world.logs("x", epoch=2, checksum=1, number=0)
        elif what == "a gap":
            world.logs("x", number=5)
        elif what == "garbage":
            world.store.put(world.stream.id, LogPosition(1, 2), b"garbage")
        else:
            payload = encode_event("f" * 32, Event(world.event(1, "x"), [7], Phase.ANSWERING))
            world.store.put(world.stream.id, LogPosition(1, 2), payload)
        await turns(lambda: world.contradictions == [world.stream])
    assert world.stream.log == [world.event(0, "a")]
    assert world.follower._places == {}


async def test_cancels_are_passed_on() -> None:
    """A client cancelled the stream at another replica."""
    world = World()
    async with background(world.follower.run):
        await world.store.cancel(ID)
        await turns(lambda: world.cancels == [ID])
