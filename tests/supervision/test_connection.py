from __future__ import annotations

import asyncio
import socket

import pytest

from service.protocol.codec import Decoder, encode
from service.protocol.frames import Accepted, Beat, Cancel, Fatal, Frame, Loading, Step
from service.supervision.connection import EngineConnection
from tests.fakes import Clock


class Pair:
    """A connection, the frames that it received, and the other side's socket."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.received: list[Frame] = []
        self.connection = EngineConnection(self.received.append, self.clock)

    async def open(self) -> Pair:
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self.connection, sock=ours)
        return self

    async def read(self) -> list[Frame]:
        return Decoder().feed(await asyncio.get_running_loop().sock_recv(self.theirs, 1 << 16))


@pytest.fixture
async def pair() -> Pair:
    return await Pair().open()


async def test_frames_are_split_anywhere(pair: Pair) -> None:
    """However the bytes arrive, the frames are whole and in order."""
    frames: list[Frame] = [Loading(0.5), Accepted("a", 3, 9), Step(deltas=[("a", [1], "é")]), Beat(0.0)]
    raw = b"".join(encode(frame) for frame in frames)
    for n in range(len(raw)):
        pair.connection.data_received(raw[n : n + 1])
    assert [type(frame).__name__ for frame in pair.received] == ["Loading", "Accepted", "Step"]


async def test_frames_are_sent(pair: Pair) -> None:
    """The other side reads the frame that was sent."""
    pair.connection.send(Cancel("a"))
    assert await pair.read() == [Cancel("a")]


async def test_a_beat_has_the_duration_of_the_step(pair: Pair) -> None:
    """Anything received is a sign of life; a beat also has the step's duration so far."""
    pair.clock.advance(5)
    pair.connection.data_received(encode(Beat(2.5)))
    assert (pair.connection.busy_s, pair.connection.heard_at) == (2.5, pair.clock())
    assert pair.received == []


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (encode(Fatal("no memory")), "no memory"),
        (b"\x00\x00\x00\x02{}", "it sent an invalid frame"),
        (b"\xff\xff\xff\xff", "it sent an invalid frame"),
        (b'\x00\x00\x00\x0f{"type":"what"}', "it sent an invalid frame"),
    ],
)
async def test_the_end_has_a_reason_and_is_final(pair: Pair, raw: bytes, reason: str) -> None:
    """After a Fatal or an invalid frame nothing more is delivered."""
    pair.connection.data_received(raw)
    pair.connection.data_received(encode(Accepted("a", 3, 9)))
    assert (await pair.connection.ended).startswith(reason)
    assert pair.received == []


async def test_the_other_sides_end_ends_it(pair: Pair) -> None:
    """EOF: the process has died."""
    pair.theirs.close()
    assert await pair.connection.ended == "it died"


async def test_closing_ends_the_engine(pair: Pair) -> None:
    """It lets the engine read EOF, and exit."""
    pair.connection.close()
    assert await asyncio.get_running_loop().sock_recv(pair.theirs, 10) == b""
    pair.connection.close()


async def test_frames_before_a_death_are_delivered(pair: Pair) -> None:
    """What the engine sent before it died comes before its end, even if a write is the first to notice."""
    pair.theirs.send(encode(Accepted("a", 3, 9)) + encode(Accepted("b", 3, 9)))
    pair.theirs.close()
    pair.connection.send(Cancel("c"))
    assert await pair.connection.ended == "it died"
    assert pair.received == [Accepted("a", 3, 9), Accepted("b", 3, 9)]
