"""/stream and /v1/streams: the native dialect, made for EventSource. Started by GET or POST, resumed by event id."""

from __future__ import annotations

from aiohttp import web

from service.api.middleware import EXCHANGE
from service.api.params import PaceRequest, StreamRequest, as_json, parse_query, validate
from service.api.receipt import receipt
from service.api.respond import note, send
from service.api.resume import last_event_id
from service.api.shared import Shared
from service.api.start import Terms, idempotency_key, is_resumable, start
from service.api.unsupported import refuse_unsupported
from service.dialects.native import Native
from service.errors import NotReady, StreamLost, StreamNotFound
from service.streams.choices import Combined, Place
from service.streams.stream import Stream


class StreamRoutes:
    """Starts streams, and finds them by their ids."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/stream", self.get, allow_head=False),  # a HEAD would generate
            web.post("/stream", self.post),
            web.post("/v1/streams", self.create),
            web.get("/v1/streams/{id}", self.read, allow_head=False),
            web.delete("/v1/streams/{id}", self.cancel),
        ]

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Start a stream, or resume the one that Last-Event-ID or `key` names: never a second generation."""
        fields = parse_query(query(request))
        if last := last_event_id(request, fields):
            return await self._shared.resuming.resume(request, last, fields)
        tenant = self._shared.access.tenant(request)
        refuse_unsupported(as_json(fields))
        stream, pace = await self._start(request, validate(StreamRequest, fields, strict=False), tenant, resumable=True)
        return await send(request, self._shared.directory.streams, stream, pace=pace)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """The same by a JSON body. It ends when its client disconnects, unless that asked for resuming."""
        if last := last_event_id(request, {}):
            return await self._shared.resuming.resume(request, last, parse_query(query(request)))
        tenant = self._shared.access.tenant(request)
        stream, pace = await self._start(
            request, await self._body(request, tenant), tenant, resumable=is_resumable(request)
        )
        return await send(request, self._shared.directory.streams, stream, pace=pace)

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Start a stream without reading it: 201 with its id and URL. It waits resume_grace_s for a reader."""
        if last := last_event_id(request, {}):
            return await self._shared.resuming.resume(request, last, parse_query(query(request)))
        tenant = self._shared.access.tenant(request)
        stream, _ = await self._start(request, await self._body(request, tenant), tenant, resumable=True)
        with self._shared.directory.streams.attach(stream, stall=lambda: None) as reader:
            await reader.admitted()
        url = f"/v1/streams/{stream.id}"
        headers = {"Location": url, "X-Stream-Id": stream.id, "Cache-Control": "no-store"}
        return web.json_response({"id": stream.id, "url": url}, status=201, headers=headers)

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Attach to a stream by its id, which grants reading it."""
        fields = parse_query(query(request))
        id = request.match_info["id"]
        if last := last_event_id(request, fields):
            return await self._shared.resuming.resume(request, last, fields, within=id)
        if combined := Combined.parse(id):
            return await self._read_all(request, combined, fields)
        accept = request.headers.get("Accept", "")
        try:
            stream = await self._shared.directory.locate(id)
        except NotReady:
            if "text/event-stream" in accept:
                return self._shared.resuming.later(request)
            raise
        if stream is not None:
            self._shared.access.check_reader(request, stream.tenant)
            if "application/json" in accept:
                return self._receipt(request, stream)
            return await self._shared.resuming.to(request, stream, 0, fields)
        if "text/event-stream" in accept:
            return self._shared.resuming.lost(request)
        if await self._shared.directory.is_gone(id):
            raise StreamLost("This stream has ended, and its events have expired.")
        raise StreamNotFound("There is no such stream.")

    async def _read_all(
        self, request: web.Request, combined: Combined, fields: dict[str, str | list[str]]
    ) -> web.StreamResponse:
        """The same for the streams of several choices."""
        if "application/json" not in request.headers.get("Accept", ""):
            return await self._shared.resuming.together(request, Place.start(combined), fields)
        streams = await self._shared.choices.locate(request, combined)
        if streams is None:
            raise StreamNotFound("There is no such stream, or it has expired.")
        return self._shared.choices.receipt(combined, streams)

    def _receipt(self, request: web.Request, stream: Stream) -> web.Response:
        note(request, stream, attached=True)
        return web.json_response(receipt(stream), headers={"Cache-Control": "no-store"})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """End a stream: its readers get `done` with finish_reason cancelled. 204, also when it had ended."""
        tenant, id = self._shared.access.tenant(request), request.match_info["id"]
        combined = Combined.parse(id)
        found = [await self._shared.directory.locate(one) for one in (combined.ids if combined else [id])]
        streams = [stream for stream in found if stream is not None and stream.tenant == tenant]
        if not streams:
            raise StreamNotFound("There is no such stream, or it has expired.")
        note(request, streams[0], attached=True)
        for stream in streams:
            await self._shared.directory.end(stream)
        return web.Response(status=204)

    async def _body(self, request: web.Request, tenant: str) -> StreamRequest:
        async with self._shared.bodies.parsed(request, tenant) as body:
            refuse_unsupported(body)
            asked = validate(StreamRequest, body)
        if asked.key is None:
            asked.key = idempotency_key(request)
        asked.pace = pace_of(request) or asked.pace
        return asked

    async def _start(
        self, request: web.Request, asked: StreamRequest, tenant: str, *, resumable: bool
    ) -> tuple[Stream, float | None]:
        """The stream and its reader's pace; the parsed request is not kept while it lasts. With a key it is always
        resumable."""
        wanted = asked.to_generation()
        self._shared.access.check_model(wanted.model)
        ready = self._shared.loaded()
        defaults = asked.not_given(ready.sampling) if ready else {}
        stream = await start(
            request,
            self._shared.directory,
            wanted.sampled_by(defaults),
            Native(),
            Terms(tenant=tenant, key=asked.key, asked=wanted, resumable=resumable or bool(asked.key), pace=asked.pace),
        )
        if request[EXCHANGE].attached:
            self._shared.resuming.attached("attached")
        return stream, asked.pace


def query(request: web.Request) -> str:
    """The query as it was sent: aiohttp's own parse lets broken UTF-8 pass."""
    return request.raw_path.partition("?")[2].partition("#")[0]


def pace_of(request: web.Request) -> float | None:
    """`pace` in the query, which any route takes. Raises Invalid."""
    return validate(PaceRequest, {"pace": parse_query(query(request)).get("pace")}, strict=False).pace
