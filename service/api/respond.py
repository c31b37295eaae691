"""Sends a stream's event log as an HTTP response."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
from aiohttp import HttpVersion11, web

from service.api.middleware import EXCHANGE
from service.api.wire import Wire
from service.dialects.openai import Whole
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
    stall = partial(abort, request)
    with streams.attach(stream, place=place, after=after, pace=pace, is_bare=is_bare, stall=stall) as reader:
        await reader.admitted()
        response = await begun(request, stream.id)
        await reader.send(Wire.of(request, response))
    await response.write_eof()
    return response


async def send_whole(streams: Streams, stream: Stream) -> web.Response:
    """The whole answer, once it is complete; the stream's dialect is a Whole. Raises the stream's error."""
    with streams.attach(stream, stall=lambda: None) as reader:
        await reader.closed()
    assert stream.summary is not None and isinstance(stream.dialect, Whole)
    return whole(stream.id, stream.dialect.body(stream.summary))


def whole(id: str, body: dict[str, Any]) -> web.Response:
    """An answer in one piece. id: the stream's, or that of several answers."""
    headers = {"Cache-Control": "no-store", "X-Stream-Id": id}
    return web.Response(body=orjson.dumps(body), content_type="application/json", headers=headers)


async def begun(request: web.Request, id: str) -> web.StreamResponse:
    """A response of events whose headers are sent."""
    response = web.StreamResponse(headers={**HEADERS, "X-Stream-Id": id})
    if request.version < HttpVersion11:  # no chunked encoding: the body ends with the connection
        response.force_close()
    await response.prepare(request)
    return response


def abort(request: web.Request) -> None:
    """Give up the connection."""
    if request.transport is not None:
        request.transport.abort()


def note(request: web.Request, stream: Stream, *, attached: bool = False) -> None:
    """Set the exchange's stream."""
    exchange = request[EXCHANGE]
    exchange.stream, exchange.attached = stream, attached
