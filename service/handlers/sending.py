"""A stream's log onto a socket: the one loop that writes events."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from service.handlers.exchange import EXCHANGE
from service.handlers.wire import Wire
from service.registry import Streams
from service.streams import Stream

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses holds back what it has not enough of
    "X-Accel-Buffering": "no",  # nginx: pass each write on at once
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

    after: the id of the event before those, when the log has yet to show that there is such an event.
    is_bare: `data` lines only.

    Raises the stream's error if it ended before the engine took its prompt; nothing is sent by then.
    """

    def abort() -> None:
        if request.transport is not None:
            request.transport.abort()

    with streams.attach(stream, place=place, after=after, pace=pace, is_bare=is_bare, stall=abort) as reader:
        await reader.admitted()
        response = web.StreamResponse(headers={**HEADERS, "X-Stream-Id": stream.id})
        if request.version < HttpVersion11:  # which has no chunks: the end of the connection is the body's
            response.force_close()
        await response.prepare(request)
        reader.wire = Wire.of(request, response)
        while chunk := await reader.next():
            await response.write(chunk)
            del chunk  # the next one may be long in coming
    await response.write_eof()
    return response


def note(request: web.Request, stream: Stream, *, attached: bool = False) -> None:
    """Tell the exchange which stream it is about."""
    exchange = request[EXCHANGE]
    exchange.stream, exchange.attached = stream, attached
