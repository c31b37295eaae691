"""Starts a request's streams, or finds those that the same request with the same idempotency key started."""

from __future__ import annotations

import secrets

from aiohttp import web

from service.api.middleware import EXCHANGE
from service.api.params import KeyRequest, validate
from service.api.respond import note
from service.dialects.events import Dialect
from service.errors import Refused, StreamLost
from service.streams.choices import Combined
from service.streams.directory import Directory
from service.streams.request import GenerationRequest
from service.streams.stream import Stream


async def start(
    request: web.Request,
    directory: Directory,
    generation: GenerationRequest,
    dialect: Dialect,
    *,
    tenant: str,
    key: str | None,
    asked: object = None,
    resumable: bool,
    pace: float | None = None,
) -> Stream:
    """The stream, set as this exchange's own or as one that it attached to. Raises KeyReused or a Refused.

    asked: see Streams.open.
    """
    exchange, id = request[EXCHANGE], None
    if key is not None:
        made, id = await directory.reserve(tenant, key, generation if asked is None else asked)
        if made is not None:
            note(request, made, attached=True)
            return made
    try:
        stream = directory.streams.open(
            generation,
            dialect,
            route=exchange.route,
            arrived_at=exchange.arrived_at,
            tenant=tenant,
            key=key,
            asked=asked,
            resumable=resumable,
            pace=pace,
            id=id,
        )
    except Refused:
        if key is not None and id is not None:
            directory.free(tenant, key, id)
        raise
    directory.opened(stream, None if key is None else (tenant, key))
    note(request, stream)
    return stream


async def start_all(
    request: web.Request,
    directory: Directory,
    requests: list[tuple[GenerationRequest, Dialect]],
    *,
    n: int,
    tenant: str,
    key: str | None,
    asked: object,
    resumable: bool,
    pace: float | None = None,
) -> tuple[Combined, list[Stream]]:
    """The streams of n answers to each prompt, all or none, and the id of them all. Raises as `start` does, and
    StreamLost where the key started some that no longer exist."""
    exchange = request[EXCHANGE]
    made, first = (None, secrets.token_hex(16)) if key is None else await directory.reserve(tenant, key, asked)
    combined = Combined(first if made is None else made.id, len(requests) // n, n)
    if made is not None:
        note(request, made, attached=True)
        found = [stream for id in combined.ids if (stream := await directory.locate(id)) is not None]
        if len(found) < len(requests):
            raise StreamLost("These streams no longer exist; use another key.")
        return combined, found
    try:
        tickets = directory.streams.admission.admit_all(tenant, len(requests))
    except Refused:
        if key is not None:
            directory.free(tenant, key, first)
        raise
    streams = []
    for (generation, dialect), id, ticket in zip(requests, combined.ids, tickets, strict=True):
        its_key = key if id == first else None
        stream = directory.streams.open(
            generation,
            dialect,
            route=exchange.route,
            arrived_at=exchange.arrived_at,
            tenant=tenant,
            key=its_key,
            asked=asked,
            resumable=resumable,
            pace=pace,
            id=id,
            ticket=ticket,
        )
        directory.opened(stream, None if its_key is None else (tenant, its_key))
        streams.append(stream)
    note(request, streams[0])
    return combined, streams


def idempotency_key(request: web.Request) -> str | None:
    """The header Idempotency-Key: `key` for bodies that have no such field. Raises Invalid."""
    given = request.headers.get("Idempotency-Key")
    return None if given is None else validate(KeyRequest, {"Idempotency-Key": given.strip('"')}).key


def is_resumable(request: web.Request) -> bool:
    """Whether the client announces that it may resume."""
    return request.headers.get("X-Resumable", "").strip().lower() in ("1", "true")
