"""/completion, /props: what llama-server's clients expect, over the same streams."""

from __future__ import annotations

from aiohttp import web

from service.api.llama_server_params import CompletionRequest, props
from service.api.openai_params import refuse_too_long
from service.api.params import parse_query, validate
from service.api.respond import send, send_whole
from service.api.resume import last_event_id
from service.api.shared import Shared
from service.api.start import Terms, idempotency_key, is_resumable, start
from service.api.stream_routes import pace_of, query
from service.api.unsupported import refuse_unsupported
from service.dialects.events import Dialect
from service.dialects.llama_server import Completion, Deltas, WholeCompletion
from service.streams.stream import Stream


class LlamaServerRoutes:
    """Streams in llama-server's dialect, and what it tells of itself."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/completion", self.complete), web.get("/props", self.props)]

    async def props(self, request: web.Request) -> web.StreamResponse:
        self._shared.access.tenant(request)
        ready = self._shared.ready()
        name = (self._shared.access.model_names or (ready.model,))[0]
        return web.json_response(props(ready, name, self._shared.version), headers={"Cache-Control": "no-store"})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        if last := last_event_id(request, {}):
            return await self._shared.resuming.resume(request, last, parse_query(query(request)))
        stream, pace = await self._start(request)
        if isinstance(stream.dialect, WholeCompletion):
            return await send_whole(self._shared.directory.streams, stream)
        return await send(request, self._shared.directory.streams, stream, pace=pace, is_bare=not stream.grace_s)

    async def _start(self, request: web.Request) -> tuple[Stream, float | None]:
        """The stream and its reader's pace; the parsed body is not kept while the stream lasts."""
        tenant = self._shared.access.tenant(request)
        asked = await self._asked(request, tenant)
        wanted = asked.to_generation()
        self._shared.access.check_model(wanted.model)
        ready = self._shared.ready()
        generation = wanted.sampled_by(asked.not_given(ready.sampling))
        completion = Completion(generation.model or ready.model, ready.n_ctx_seq, asked.settings(generation))
        dialect: Dialect = Deltas(completion) if asked.stream else WholeCompletion(completion)
        key = idempotency_key(request)
        terms = Terms(
            tenant=tenant,
            key=key,
            asked=("completion", asked.stream, wanted),
            resumable=key is not None or is_resumable(request),
            pace=asked.pace if asked.stream else None,
        )
        return await start(request, self._shared.directory, generation, dialect, terms), asked.pace

    async def _asked(self, request: web.Request, tenant: str) -> CompletionRequest:
        pace = pace_of(request)
        async with self._shared.bodies.parsed(request, tenant) as body:
            refuse_unsupported(body)
            if loaded := self._shared.loaded():
                refuse_too_long(body, loaded.n_ctx_seq)
            asked = validate(CompletionRequest, body)
        asked.pace = pace or asked.pace
        return asked
