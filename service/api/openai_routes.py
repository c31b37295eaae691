"""/v1/chat/completions, /v1/completions, /v1/models: what OpenAI's clients expect, over the same streams."""

from __future__ import annotations

import time

from aiohttp import web

from service.api.openai_params import (
    ChatRequest,
    TextRequest,
    check_choices,
    check_include_usage,
    model_object,
    refuse_too_long,
    truncate,
)
from service.api.params import parse_query, validate
from service.api.respond import send, send_whole
from service.api.resume import last_event_id
from service.api.shared import Shared
from service.api.start import Terms, idempotency_key, is_resumable, start, start_all
from service.api.stream_routes import pace_of, query
from service.api.unsupported import refuse_unsupported
from service.dialects.events import Dialect
from service.dialects.logprobs import Kind
from service.dialects.openai import Answer, Chunks, Whole
from service.errors import ModelNotFound
from service.streams.choices import Combined
from service.streams.stream import Stream


class OpenAIRoutes:
    """Streams in OpenAI's dialects."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
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
        self._shared.access.tenant(request)
        ready = self._shared.ready()
        names = self._shared.access.model_names or (ready.model,)
        return web.json_response(
            {"object": "list", "data": [model_object(name, ready, self._created) for name in names]}
        )

    async def model(self, request: web.Request) -> web.StreamResponse:
        self._shared.access.tenant(request)
        ready = self._shared.ready()
        name = request.match_info["name"]
        if name not in (self._shared.access.model_names or (ready.model,)):
            raise ModelNotFound("There is no model with this name; see /v1/models.", param="model")
        return web.json_response(model_object(name, ready, self._created))

    async def _complete(
        self, request: web.Request, kind: Kind, schema: type[ChatRequest] | type[TextRequest]
    ) -> web.StreamResponse:
        if last := last_event_id(request, {}):
            return await self._shared.resuming.resume(request, last, parse_query(query(request)))
        streams, combined, pace = await self._start(request, kind, schema)
        is_whole = isinstance(streams[0].dialect, Whole)
        is_bare = not streams[0].grace_s  # ids and comments only if resumable: strict OpenAI clients know `data` alone
        if combined is None:
            if is_whole:
                return await send_whole(self._shared.directory.streams, streams[0])
            return await send(request, self._shared.directory.streams, streams[0], pace=pace, is_bare=is_bare)
        if is_whole:
            return await self._shared.choices.whole(combined, streams)
        return await self._shared.choices.send(request, combined, streams, pace=pace, is_bare=is_bare)

    async def _start(
        self, request: web.Request, kind: Kind, schema: type[ChatRequest] | type[TextRequest]
    ) -> tuple[list[Stream], Combined | None, float | None]:
        """The streams, the id that names them all if there are several, and their reader's pace; the parsed body is not
        kept while they last."""
        tenant = self._shared.access.tenant(request)
        pace = pace_of(request)
        async with self._shared.bodies.parsed(request, tenant) as body:
            refuse_unsupported(body, may_have_several=True)
            if loaded := self._shared.loaded():
                truncate(body, loaded.n_ctx_seq)
                refuse_too_long(body, loaded.n_ctx_seq)
            asked = validate(schema, body)
        pace = pace or asked.pace
        check_include_usage(asked)
        wanted = asked.to_generations()
        n = check_choices(asked, len(wanted))
        self._shared.access.check_model(asked.model or None)
        ready = self._shared.ready()
        defaults = asked.not_given(ready.sampling)
        generations = [one.sampled_by(defaults) for one in wanted]
        fingerprint = f"rill-{self._shared.version}-{ready.llama_cpp}"
        answer = Answer(kind, model=asked.model or ready.model, fingerprint=fingerprint)
        key = idempotency_key(request)
        pace = pace if asked.stream else None

        def dialect(index: int | None = None) -> Dialect:
            if asked.stream:
                return Chunks(answer, include_usage=asked.include_usage, index=index)
            return Whole(answer, index=index)

        is_single = n * len(generations) == 1
        terms = Terms(
            tenant=tenant,
            key=key,
            asked=(kind, asked.stream, asked.include_usage, *(wanted if is_single else (n, tuple(wanted)))),
            resumable=key is not None or is_resumable(request),
            pace=pace,
        )
        if is_single:
            stream = await start(request, self._shared.directory, generations[0], dialect(), terms)
            return [stream], None, pace
        each = [one for generation in generations for one in generation.times(n)]
        requests = [(one, dialect(index)) for index, one in enumerate(each)]
        combined, streams = await start_all(request, self._shared.directory, requests, n, terms)
        return streams, combined, pace
