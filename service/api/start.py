"""Starts a request's streams, or finds those that the same request with the same idempotency key started."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from service.api.middleware import EXCHANGE
from service.api.params import KeyRequest, validate
from service.api.respond import note
from service.dialects.events import Dialect
from service.errors import Refused, StreamLost
from service.streams.admission import Ticket
from service.streams.choices import Combined
from service.streams.directory import Directory
from service.streams.request import GenerationRequest
from service.streams.stream import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a request's streams are started. asked: see Streams.open."""

    tenant: str
    key: str | None
    asked: object
    resumable: bool
    pace: float | None = None


async def start(
    request: web.Request, directory: Directory, generation: GenerationRequest, dialect: Dialect, terms: Terms
) -> Stream:
    """The stream, set as this exchange's own or as one that it attached to. Raises KeyReused or a Refused."""
    made, id = await _reserved(request, directory, terms)
    if made is not None:
        return made
    with _freed(directory, terms, id):
        stream = _open(request, directory, generation, dialect, terms, id)
    note(request, stream)
    return stream


async def start_all(
    request: web.Request, directory: Directory, requests: list[tuple[GenerationRequest, Dialect]], n: int, terms: Terms
) -> tuple[Combined, list[Stream]]:
    """The streams of n answers to each prompt, all or none, and the id of them all. Raises as `start` does, and
    StreamLost where the key started some that no longer exist."""
    made, first = await _reserved(request, directory, terms)
    combined = Combined(first if made is None else made.id, len(requests) // n, n)
    if made is not None:
        found = [stream for id in combined.ids if (stream := await directory.locate(id)) is not None]
        if len(found) < len(requests):
            raise StreamLost("These streams no longer exist; use another key.")
        return combined, found
    with _freed(directory, terms, first):
        tickets = directory.streams.admission.admit_all(terms.tenant, len(requests))
    others = replace(terms, key=None)  # it names the first one, whose id tells the others'
    streams = [
        _open(request, directory, *one, terms if id == first else others, id, ticket)
        for one, id, ticket in zip(requests, combined.ids, tickets, strict=True)
    ]
    note(request, streams[0])
    return combined, streams


async def _reserved(request: web.Request, directory: Directory, terms: Terms) -> tuple[Stream | None, str]:
    """The stream that the key started, which the exchange attaches to; None: none, start one with this id."""
    if terms.key is None:
        return None, secrets.token_hex(16)
    made, id = await directory.reserve(terms.tenant, terms.key, terms.asked)
    if made is not None:
        note(request, made, attached=True)
    return made, id


@contextmanager
def _freed(directory: Directory, terms: Terms, id: str) -> Iterator[None]:
    """Free the key if the request is refused within."""
    try:
        yield
    except Refused:
        if terms.key is not None:
            directory.free(terms.tenant, terms.key, id)
        raise


def _open(
    request: web.Request,
    directory: Directory,
    generation: GenerationRequest,
    dialect: Dialect,
    terms: Terms,
    id: str,
    ticket: Ticket | None = None,
) -> Stream:
    """A new stream, of which the other replicas know. Raises a Refused, unless it has a ticket."""
    exchange = request[EXCHANGE]
    stream = directory.streams.open(
        generation,
        dialect,
        route=exchange.route,
        arrived_at=exchange.arrived_at,
        tenant=terms.tenant,
        key=terms.key,
        asked=terms.asked,
        resumable=terms.resumable,
        pace=terms.pace,
        id=id,
        ticket=ticket,
    )
    directory.opened(stream, None if terms.key is None else (terms.tenant, terms.key))
    return stream


def idempotency_key(request: web.Request) -> str | None:
    """The header Idempotency-Key: `key` for bodies that have no such field. Raises Invalid."""
    given = request.headers.get("Idempotency-Key")
    return None if given is None else validate(KeyRequest, {"Idempotency-Key": given.strip('"')}).key


def is_resumable(request: web.Request) -> bool:
    """Whether the client announces that it may resume."""
    return request.headers.get("X-Resumable", "").strip().lower() in ("1", "true")
