"""Readers who come back, or come to a stream that exists already: they go on after the event that they name."""

from __future__ import annotations

import re
from collections.abc import Callable

from aiohttp import web

from service import sse
from service.errors import NotReady, StreamLost
from service.handlers.access import Access
from service.handlers.exchange import EXCHANGE
from service.handlers.sending import HEADERS, note, send
from service.openai import Whole
from service.registry import Streams
from service.schema import PaceRequest, validate
from service.streams import Stream

EVENT_ID = re.compile(r"([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})\.[0-9a-f]{8}")
LATER_MS = 2000
Attached = Callable[[str], None]
Fields = dict[str, str | list[str]]


class Resuming:
    """`attached(outcome)` is told of each request for a stream that exists already: attached, read or lost."""

    def __init__(self, *, streams: Streams, access: Access, attached: Attached) -> None:
        self._streams = streams
        self._access = access
        self.attached = attached

    async def resume(
        self, request: web.Request, last: str, fields: Fields, within: str | None = None
    ) -> web.StreamResponse:
        """Go on after the event `last` (of the stream `within`, if given)."""
        if last == sse.LOST_ID:
            return self._read(request)
        match = EVENT_ID.fullmatch(last)
        try:
            stream = await self._streams.locate(match[1]) if match and within in (None, match[1]) else None
        except NotReady:
            return self.later(request)
        if stream is not None:
            self._access.check_reader(request, stream.tenant)
        if match is None or stream is None:
            return self.lost(request)
        place = int(match[2]) + 1
        if not stream.has(place - 1, last):
            # From another replica, a reader may have what was never logged: if it is generated again, he goes on.
            return await self.to(request, stream, place, fields, last) if stream.travelled else self.lost(request)
        if place == len(stream.log) and not stream.open:
            note(request, stream, attached=True)
            return self._read(request)
        return await self.to(request, stream, place, fields)

    async def to(
        self,
        request: web.Request,
        stream: Stream,
        place: int,
        fields: Fields,
        after: str | None = None,
    ) -> web.StreamResponse:
        """The stream's events from number `place` on; 204 for an answer in one piece, which has none."""
        if isinstance(stream.dialect, Whole):
            return self._read(request)
        pace = validate(PaceRequest, {"pace": fields.get("pace")}, strict=False).pace
        self.attached("attached")
        note(request, stream, attached=True)
        return await send(request, self._streams, stream, place=place, after=after, pace=pace)

    def _read(self, request: web.Request) -> web.StreamResponse:
        """204: there is nothing more to read, which makes an EventSource stop."""
        self.attached("read")
        request[EXCHANGE].attached = True
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    def later(self, request: web.Request) -> web.StreamResponse:
        """Nothing, and an end: who resumes comes back. Any status but 200 would end an EventSource for good."""
        request[EXCHANGE].attached = True
        return web.Response(body=sse.retry(LATER_MS), headers=HEADERS)

    def lost(self, request: web.Request) -> web.StreamResponse:
        """One failure whose id makes the next attempt end with 204. A 404 would leave an EventSource without a word."""
        self.attached("lost")
        exchange = request[EXCHANGE]
        exchange.attached, exchange.outcome = True, StreamLost.outcome
        error = StreamLost("This stream is not known here any more; start a new one.")
        return web.Response(body=sse.lost(error), headers=HEADERS)


def last_event_id(request: web.Request, fields: Fields) -> str:
    """The id of the last event that the reader has; "" when it has none. The header is newer than the address."""
    given = request.headers.get("Last-Event-ID") or fields.get("last_event_id") or ""
    return given if isinstance(given, str) else ""
