from __future__ import annotations

import asyncio

import pytest

from service.api.wire import MAX_BUFFERED_BYTES, Wire
from service.streams.table import Role
from tests.conftest import Serve
from tests.events import numbers, parse, text
from tests.fakes import turns


async def nothing(chunk: bytes) -> None:
    """Sends nothing."""


class FakeTransport(asyncio.Transport):
    """Accepts everything, and reports the buffer size that the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.n_held = 0
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.n_held

    def is_closing(self) -> bool:
        return self.closing


def test_a_chunk_is_framed_as_http_1_1_has_it() -> None:
    """Its length in hexadecimal digits and its bytes, each on a line (RFC 9112, 7.1); HTTP/1.0 has no chunks."""
    chunked, plain = FakeTransport(), FakeTransport()
    Wire(chunked, nothing, is_chunked=True).write(b"x" * 26)
    Wire(plain, nothing, is_chunked=False).write(b"x" * 26)
    assert chunked.written == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert plain.written == b"x" * 26


def test_it_is_free_while_its_client_keeps_up() -> None:
    """It is not free when the kernel has not taken what was written before, or when the client has left."""
    transport = FakeTransport()
    wire = Wire(transport, nothing, is_chunked=True)
    assert wire.is_free()
    transport.n_held = MAX_BUFFERED_BYTES
    assert not wire.is_free()
    transport.n_held, transport.closing = 0, True
    assert not wire.is_free()
    assert not Wire(None, nothing, is_chunked=True).is_free()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_what_is_written_both_ways_is_one_body(serve: Serve, version: str) -> None:
    """Bytes sent over the wire come between those written by response.write and the end, in any version of HTTP."""
    service = await serve(by_hand=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
    head = f"GET /stream?prompt=x HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    (stream,) = service.rill.streams.table.in_role(Role.MADE)
    await turns(lambda: stream.log.n_sent == len(stream.log))
    for word in "ab":
        service.engine.delta(id, word)
        await turns(lambda: stream.log.n_sent == len(stream.log))
    service.engine.finish(id)
    raw = await reader.read()
    writer.close()
    body = raw.partition(b"\r\n\r\n")[2]
    if version == "1.1":
        body = unchunk(body)
    events = parse(body)
    assert (text(events), events[-1].name, numbers(events, id)) == ("ab", "done", list(range(len(events))))


def unchunk(body: bytes) -> bytes:
    """The joined chunks of a whole body; nothing follows the empty chunk."""
    joined = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        if not n:
            assert body == b"\r\n"
            return joined
        joined, body = joined + body[:n], body[n + 2 :]
