"""A request's body: read whole, bounded in size, time and encoding, parsed within its tenant's budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import hdrs, web

from service.api.params import parse_json
from service.api.parse_budget import ParseBudget
from service.errors import BodyTooLarge, BodyTooSlow, Invalid, UnsupportedEncoding

BODY_TIMEOUT_S = 30.0  # a megabyte at 300 kbit/s


class Bodies:
    """JSON bodies of at most max_bytes, which share the event loop's time by tenant."""

    def __init__(self, max_bytes: int, budget: ParseBudget | None = None) -> None:
        self._max_bytes = max_bytes
        self._budget = budget or ParseBudget()

    @asynccontextmanager
    async def parsed(self, request: web.Request, tenant: str) -> AsyncIterator[dict[str, Any]]:
        """The body's object; validate it within the context, without awaiting, since that takes time, too.

        Raises what read_body and parse_json raise, and QueueFull."""
        body = await read_body(request, self._max_bytes)
        async with self._budget.turn(tenant, len(body)):
            yield parse_json(body)


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The body's bytes. Any Content-Type is accepted: `curl -d` labels JSON a form.

    Raises UnsupportedEncoding for a compressed one (a zip bomb), BodyTooLarge, BodyTooSlow, Invalid.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedEncoding("A compressed body is not accepted; send it uncompressed.")
    too_large = BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise BodyTooSlow("The body did not arrive in time.") from None
    except web.RequestPayloadError:
        raise Invalid("The body can't be read.") from None
    return bytes(body)
