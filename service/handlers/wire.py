"""A response's connection, as a reader writes to it while nothing is in the way: no task is woken for that."""

from __future__ import annotations

import asyncio

from aiohttp import web

# What the kernel has not taken yet: a few events of one turn of the loop. With more than that the client does not keep
# up, and waiting for it is what response.write does.
MAX_BUFFERED_BYTES = 4 << 10


class Wire:
    """Writes chunks of a body, after its headers and before its end, behind all that `response.write` has written."""

    __slots__ = ("_is_chunked", "_transport")

    def __init__(self, transport: asyncio.Transport, *, is_chunked: bool) -> None:
        self._transport = transport
        self._is_chunked = is_chunked

    @classmethod
    def of(cls, request: web.Request, response: web.StreamResponse) -> Wire | None:
        """A prepared response's; None: its client has left."""
        if request.transport is None:
            return None
        return cls(request.transport, is_chunked=response.headers.get("Transfer-Encoding") == "chunked")

    def is_free(self) -> bool:
        """Whether it takes more at once: its client reads, and is there."""
        transport = self._transport
        return not transport.is_closing() and transport.get_write_buffer_size() < MAX_BUFFERED_BYTES

    def write(self, chunk: bytes) -> None:
        """Only while it is free; never empty, which would end the body."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked else chunk)
