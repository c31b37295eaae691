"""A request's body: read whole, bounded in size, in time and in encoding."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web

from service.errors import BodyTooLarge, BodyTooSlow, Invalid, UnsupportedEncoding

BODY_TIMEOUT_S = 30.0  # a megabyte at 300 kbit/s


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """The body's bytes. Any Content-Type is taken, because `curl -d` calls JSON a form.

    Raises UnsupportedEncoding for a compressed one (a zip bomb), BodyTooLarge, BodyTooSlow, Invalid.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedEncoding("A compressed body is not accepted; send it plain.")
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
