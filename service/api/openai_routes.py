"""/v1/chat/completions, /v1/completions, /v1/models: what OpenAI's clients expect, over the same streams."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson
from aiohttp import web

from service.api.access import Access
from service.api.body import Bodies
from service.api.openai_params import ChatRequest, TextRequest, check_include_usage, model_object, refuse_too_long
from service.api.params import parse_query, validate
from service.api.respond import send
from service.api.resume import Resuming, last_event_id
from service.api.start import idempotency_key, is_resumable, start
from service.api.stream_routes import pace_of, query
from service.api.unsupported import refuse_unsupported
from service.dialects.events import Dialect
from service.dialects.openai import Answer, Chunks, Kind, Whole
from service.errors import ModelNotFound, NotReady
from service.protocol.frames import Ready
from service.streams.directory import Directory
from service.streams.stream import Stream


class OpenAIRoutes:
    """`loaded()` is what the engine runs, or None before it is ready."""

    def __init__(
        self,
        *,
        directory: Directory,
        access: Access,
        resuming: Resuming,
        loaded: Callable[[], Ready | None],
        bodies: Bodies,
        version: str,
    ) -> None:
        self._directory = directory
        self._access = access
        self._resuming = resuming
        self._loaded = loaded
        self._bodies = bodies
        self._version = version
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.text),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{name:.+}", self.model),
        ]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, "chat", ChatRequest)

    async def text(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, "text", TextRequest)

    async def models(self, request: web.Request) -> web.StreamResponse:
        self._access.tenant(request)
        ready = self._ready()
        names = self._access.model_names or (ready.model,)
        return web.json_response(
            {"object": "list", "data": [model_object(name, ready, self._created) for name in names]}
        )

    async def model(self, request: web.Request) -> web.StreamResponse:
        self._access.tenant(request)
        ready = self._ready()
        name = request.match_info["name"]
        if name not in (self._access.model_names or (ready.model,)):
            raise ModelNotFound("There is no model with this name; see /v1/models.", param="model")
        return web.json_response(model_object(name, ready, self._created))

    async def _complete(
        self, request: web.Request, kind: Kind, schema: type[ChatRequest] | type[TextRequest]
    ) -> web.StreamResponse:
        if last := last_event_id(request, {}):
            return await self._resuming.resume(request, last, parse_query(query(request)))
        stream, pace = await self._start(request, kind, schema)
        if isinstance(stream.dialect, Whole):
            return await self._whole(stream)
        # Ids and comments are for resumable streams only: strict OpenAI clients know `data` alone.
        return await send(request, self._directory.streams, stream, pace=pace, is_bare=not stream.grace_s)

    async def _start(
        self, request: web.Request, kind: Kind, schema: type[ChatRequest] | type[TextRequest]
    ) -> tuple[Stream, float | None]:
        """The stream and its reader's pace; the parsed body is not kept while the stream lasts."""
        tenant = self._access.tenant(request)
        pace = pace_of(request)
        async with self._bodies.parsed(request, tenant) as body:
            refuse_unsupported(body)
            if loaded := self._loaded():
                refuse_too_long(body, loaded.n_ctx_seq)
            asked = validate(schema, body)
        pace = pace or asked.pace
        check_include_usage(asked)
        generation = asked.to_generation()
        self._access.check_model(generation.model)
        ready = self._ready()
        answer = Answer(
            kind, model=generation.model or ready.model, fingerprint=f"rill-{self._version}-{ready.llama_cpp}"
        )
        dialect: Dialect = Chunks(answer, include_usage=asked.include_usage) if asked.stream else Whole(answer)
        key = idempotency_key(request)
        stream = await start(
            request,
            self._directory,
            generation,
            dialect,
            tenant=tenant,
            key=key,
            asked=(kind, asked.stream, asked.include_usage, generation),
            resumable=key is not None or is_resumable(request),
            pace=pace if asked.stream else None,
        )
        return stream, pace

    async def _whole(self, stream: Stream) -> web.Response:
        """The whole answer, once it is complete."""
        with self._directory.streams.attach(stream, stall=lambda: None) as reader:
            await reader.closed()
        assert stream.summary is not None and isinstance(stream.dialect, Whole)
        body = orjson.dumps(stream.dialect.body(stream.summary))
        headers = {"Cache-Control": "no-store", "X-Stream-Id": stream.id}
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _ready(self) -> Ready:
        ready = self._loaded()
        if ready is None:
            raise NotReady("The model is being loaded.", retry_after_s=2.0)
        return ready
