"""Resuming and attaching: a reader of an existing stream continues after the event that it names."""

from __future__ import annotations

import re
from collections.abc import Callable

from aiohttp import hdrs, web

from service.api.access import Access
from service.api.choices import Choices, is_read
from service.api.middleware import EXCHANGE
from service.api.params import PaceRequest, validate
from service.api.respond import HEADERS, note, send
from service.dialects import sse
from service.dialects.native import lost
from service.dialects.openai import Whole
from service.errors import NotReady, StreamLost
from service.streams.choices import Place
from service.streams.directory import Directory
from service.streams.stream import Stream

EVENT_ID = re.compile(r"([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})\.[0-9a-f]{8}")
LATER_MS = 2000
Attached = Callable[[str], None]
Fields = dict[str, str | list[str]]


class Resuming:
    """`attached(outcome)` is called for each request for an existing stream: attached, read or lost."""

    def __init__(self, *, directory: Directory, access: Access, choices: Choices, attached: Attached) -> None:
        self._directory = directory
        self._choices = choices
        self._access = access
        self.attached = attached

    async def resume(
        self, request: web.Request, last: str, fields: Fields, within: str | None = None
    ) -> web.StreamResponse:
        """Resume after event `last` (of the stream `within`, if given)."""
        if last == sse.LOST_ID:
            return self._read(request)
        if (position := Place.parse(last)) is not None and within in (None, position.combined.id):
            return await self.together(request, position, fields)
        match = EVENT_ID.fullmatch(last)
        try:
            stream = await self._directory.locate(match[1]) if match and within in (None, match[1]) else None
        except NotReady:
            return self.later(request)
        if stream is not None:
            self._access.check_reader(request, stream.tenant)
        if match is None or stream is None:
            return self.lost(request)
        place = int(match[2]) + 1
        if not stream.log.has(place - 1, last):
            # A reader from another replica may have unlogged events: it resumes if they are generated again.
            return await self.to(request, stream, place, fields, last) if stream.migrated else self.lost(request)
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
        self.attached("attached")
        note(request, stream, attached=True)
        pace = _pace(request, fields, stream)
        return await send(request, self._directory.streams, stream, place=place, after=after, pace=pace)

    async def together(self, request: web.Request, place: Place, fields: Fields) -> web.StreamResponse:
        """All events of several choices' streams after `place`."""
        try:
            streams = await self._choices.locate(request, place.combined)
            if streams is None:
                return self.lost(request)
            if isinstance(streams[0].dialect, Whole) or is_read(place, streams):
                return self._read(request)
            pace = _pace(request, fields, streams[0])
            response = await self._choices.send(request, place.combined, streams, place=place, pace=pace)
        except NotReady:
            return self.later(request)
        except StreamLost:
            return self.lost(request)
        self.attached("attached")
        return response

    def _read(self, request: web.Request) -> web.StreamResponse:
        """204: there is nothing more to read, which makes an EventSource stop."""
        self.attached("read")
        request[EXCHANGE].attached = True
        return web.Response(status=204, headers={"Cache-Control": "no-store"})

    def later(self, request: web.Request) -> web.StreamResponse:
        """A `retry` and the end: clients reconnect. Any status but 200 would end an EventSource for good."""
        request[EXCHANGE].attached = True
        return web.Response(body=sse.retry(LATER_MS), headers=HEADERS)

    def lost(self, request: web.Request) -> web.StreamResponse:
        """One failure, with an id for which the next attempt gets 204. A 404 would give an EventSource no message."""
        self.attached("lost")
        exchange = request[EXCHANGE]
        exchange.attached, exchange.outcome = True, StreamLost.outcome
        error = StreamLost("This stream no longer exists; start a new one.")
        return web.Response(body=lost(error), headers=HEADERS)


def _pace(request: web.Request, fields: Fields, stream: Stream) -> float | None:
    pace = validate(PaceRequest, {"pace": fields.get("pace")}, strict=False).pace
    if pace is None and request.method == hdrs.METH_POST:  # the same request again: its body, not read now, had it
        pace = stream.submit.pace
    return pace


def last_event_id(request: web.Request, fields: Fields) -> str:
    """The id of the last event that the reader has; "" when it has none. The header is newer than the query."""
    given = request.headers.get("Last-Event-ID") or fields.get("last_event_id") or ""
    return given if isinstance(given, str) else ""
