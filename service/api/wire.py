"""A response's connection: a stream's bytes are written at once while it has room, else under backpressure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

# Not yet accepted by the kernel: a few events of one loop iteration. With more than that the client does not keep up,
# and response.write is used, which waits.
MAX_BUFFERED_BYTES = 4 << 10


class Wire:
    """Writes chunks of a body, after its headers and before its end. None may be empty: that would end the body."""

    __slots__ = ("_is_chunked", "_transport", "send")

    def __init__(
        self, transport: asyncio.Transport | None, send: Callable[[bytes], Awaitable[None]], *, is_chunked: bool
    ) -> None:
        """transport: None when the client has left. send: writes a chunk and waits until there is room for more;
        raises what a closed connection raises."""
        self._transport, self.send = transport, send
        self._is_chunked = is_chunked

    @classmethod
    def of(cls, request: web.Request, response: web.StreamResponse) -> Wire:
        """A prepared response's."""
        is_chunked = response.headers.get("Transfer-Encoding") == "chunked"
        return cls(request.transport, response.write, is_chunked=is_chunked)

    def is_free(self) -> bool:
        """Whether to write at once: the client is connected and reads."""
        transport = self._transport
        return (
            transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() < MAX_BUFFERED_BYTES
        )

    def write(self, chunk: bytes) -> None:
        """Without waiting: only while free, after all that was sent."""
        assert self._transport is not None
        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked else chunk)
