"""A request for a generation -> its stream: a new one, or the one that the same request with the same key made."""

from __future__ import annotations

from aiohttp import web

from service.errors import Refused
from service.events import Dialect
from service.handlers.exchange import EXCHANGE
from service.handlers.sending import note
from service.registry import Streams
from service.schema import KeyRequest, Order, validate
from service.streams import Stream


async def start(
    request: web.Request,
    streams: Streams,
    order: Order,
    dialect: Dialect,
    *,
    tenant: str,
    key: str | None,
    asked: object = None,
    resumable: bool,
    pace: float | None = None,
) -> Stream:
    """The stream, noted as this exchange's own or as one that it attached to. Raises KeyReused or a Refused.

    asked: see Streams.open.
    """
    exchange, id = request[EXCHANGE], None
    if key is not None:
        made, id = await streams.reserve(tenant, key, order if asked is None else asked)
        if made is not None:
            note(request, made, attached=True)
            return made
    try:
        stream = streams.open(
            order,
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
            streams.free(tenant, key, id)
        raise
    note(request, stream)
    return stream


def idempotency_key(request: web.Request) -> str | None:
    """The header Idempotency-Key: `key` for bodies that have no such field. Raises Invalid."""
    given = request.headers.get("Idempotency-Key")
    return None if given is None else validate(KeyRequest, {"Idempotency-Key": given.strip('"')}).key


def is_resumable(request: web.Request) -> bool:
    """Whether the client says that it may leave and come back."""
    return request.headers.get("X-Resumable", "").strip().lower() in ("1", "true")
