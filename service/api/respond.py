"""Sends a stream's event log as an HTTP response."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from service.api.middleware import EXCHANGE
from service.api.wire import Wire
from service.streams.registry import Streams
from service.streams.stream import Stream

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",  # a compressing proxy holds back small writes
    "X-Accel-Buffering": "no",  # nginx: forward each write at once
}


async def send(
    request: web.Request,
    streams: Streams,
    stream: Stream,
    *,
    place: int = 0,
    after: str | None = None,
    pace: float | None = None,
    is_bare: bool = False,
) -> web.StreamResponse:
    """Write the stream's events from number `place` on, at most `pace` tokens a second, until it is closed and read.

    after: the id of the event before those, when the log does not hold that event yet.
    is_bare: `data` lines only.

    Raises the stream's error if it ended before the engine accepted its prompt; nothing is sent.
    """

    def abort() -> None:
        if request.transport is not None:
            request.transport.abort()

    with streams.attach(stream, place=place, after=after, pace=pace, is_bare=is_bare, stall=abort) as reader:
        await reader.admitted()
        response = web.StreamResponse(headers={**HEADERS, "X-Stream-Id": stream.id})
        if request.version < HttpVersion11:  # no chunked encoding: the body ends with the connection
            response.force_close()
        await response.prepare(request)
        await reader.send(Wire.of(request, response))
    await response.write_eof()
    return response


def note(request: web.Request, stream: Stream, *, attached: bool = False) -> None:
    """Set the exchange's stream."""
    exchange = request[EXCHANGE]
    exchange.stream, exchange.attached = stream, attached
