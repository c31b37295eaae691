"""/completion, /props: what llama-server's clients expect, over the same streams."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from aiohttp import web

from service.api.access import Access
from service.api.body import Bodies
from service.api.llama_server_params import CompletionRequest, props
from service.api.openai_params import refuse_too_long
from service.api.params import parse_query, validate
from service.api.respond import send
from service.api.resume import Resuming, last_event_id
from service.api.start import idempotency_key, is_resumable, start
from service.api.stream_routes import pace_of, query
from service.api.unsupported import refuse_unsupported
from service.dialects.events import Dialect
from service.dialects.llama_server import Completion, Deltas, WholeCompletion
from service.errors import NotReady
from service.protocol.frames import Ready
from service.streams.directory import Directory
from service.streams.stream import Stream


class LlamaServerRoutes:
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

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/completion", self.complete), web.get("/props", self.props)]

    async def props(self, request: web.Request) -> web.StreamResponse:
        self._access.tenant(request)
        ready = self._ready()
        name = (self._access.model_names or (ready.model,))[0]
        return web.json_response(props(ready, name, self._version), headers={"Cache-Control": "no-store"})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        if last := last_event_id(request, {}):
            return await self._resuming.resume(request, last, parse_query(query(request)))
        stream, pace = await self._start(request)
        if isinstance(stream.dialect, WholeCompletion):
            return await self._whole(stream, stream.dialect)
        return await send(request, self._directory.streams, stream, pace=pace, is_bare=not stream.grace_s)

    async def _start(self, request: web.Request) -> tuple[Stream, float | None]:
        """The stream and its reader's pace; the parsed body is not kept while the stream lasts."""
        tenant = self._access.tenant(request)
        asked = await self._asked(request, tenant)
        wanted = asked.to_generation()
        self._access.check_model(wanted.model)
        ready = self._ready()
        asked.default_to(ready.sampling)
        generation = asked.to_generation()
        completion = Completion(generation.model or ready.model, ready.n_ctx_seq, asked.settings(generation))
        dialect: Dialect = Deltas(completion) if asked.stream else WholeCompletion(completion)
        key = idempotency_key(request)
        stream = await start(
            request,
            self._directory,
            generation,
            dialect,
            tenant=tenant,
            key=key,
            asked=("completion", asked.stream, wanted),
            resumable=key is not None or is_resumable(request),
            pace=asked.pace if asked.stream else None,
        )
        return stream, asked.pace

    async def _asked(self, request: web.Request, tenant: str) -> CompletionRequest:
        pace = pace_of(request)
        async with self._bodies.parsed(request, tenant) as body:
            refuse_unsupported(body)
            if loaded := self._loaded():
                refuse_too_long(body, loaded.n_ctx_seq)
            asked = validate(CompletionRequest, body)
        asked.pace = pace or asked.pace
        return asked

    async def _whole(self, stream: Stream, dialect: WholeCompletion) -> web.Response:
        """The whole answer, once it is complete."""
        with self._directory.streams.attach(stream, stall=lambda: None) as reader:
            await reader.closed()
        assert stream.summary is not None
        body = orjson.dumps(dialect.body(stream.summary))
        headers = {"Cache-Control": "no-store", "X-Stream-Id": stream.id}
        return web.Response(body=body, content_type="application/json", headers=headers)

    def _ready(self) -> Ready:
        ready = self._loaded()
        if ready is None:
            raise NotReady("The model is being loaded.", retry_after_s=2.0)
        return ready
