"""One HTTP exchange: its request id, its error body, its log line. The outermost middleware, round every route."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from service import errors
from service import logs as log
from service.api.aliases import ALIASES
from service.streams.stream import Stream

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SERVER = "rill"
CLIENT_LEFT = 499  # nginx's status for it; only logged

unexpected = logging.getLogger("service.unexpected")


@dataclass(slots=True)
class Exchange:
    """One request's result: a handler sets its stream here; the middleware counts and logs it."""

    id: str
    arrived_at: float
    route: str
    stream: Stream | None = None
    attached: bool = False  # to a stream that another request started: not a request for a generation
    response: web.StreamResponse | None = None  # once it is being prepared
    status: int = 0
    outcome: str = ""


EXCHANGE = web.RequestKey("exchange", Exchange)


def error_response(error: errors.RillError) -> web.Response:
    """OpenAI's error body; Retry-After in whole seconds, retry-after-ms for clients that use it."""
    headers = {"Cache-Control": "no-store", "Server": SERVER}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, round(error.retry_after_s * 1000)))
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body = orjson.dumps(error.body())
    return web.Response(status=error.status, body=body, content_type="application/json", headers=headers)


def from_http(error: web.HTTPException) -> errors.RillError:
    """aiohttp's errors mapped to ours; their texts are dropped, since they may quote the path."""
    kinds: dict[int, tuple[type[errors.RillError], str]] = {
        404: (errors.NotFound, "There is no resource at this URL."),
        405: (errors.MethodNotAllowed, "This URL does not support this method."),
        413: (errors.BodyTooLarge, "The body is too large."),
    }
    kind, message = kinds.get(error.status, (errors.Invalid, "The request is not valid."))
    return kind(message)


def exchanges(refused: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> Any:
    """The middleware. `refused(route, outcome)` is called for requests that ended without a stream."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("X-Request-ID", "")
        exchange = Exchange(
            id=given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16),
            arrived_at=clock(),
            route=_template(request),
        )
        request[EXCHANGE] = exchange
        try:
            response = await _answer(request, handler, exchange)
            exchange.status = response.status
            return response
        except (asyncio.CancelledError, ConnectionError):
            exchange.status, exchange.outcome = CLIENT_LEFT, "client_left"
            raise
        finally:
            if exchange.stream is None and not exchange.attached and request.method in ("GET", "POST"):
                refused(exchange.route, exchange.outcome)
            _log(request, exchange, clock() - exchange.arrived_at)

    return middleware


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """A signal: every response gets its request id, and a Server header without versions."""
    response.headers["Server"] = SERVER
    if exchange := request.get(EXCHANGE):
        response.headers["X-Request-ID"] = exchange.id
        exchange.response = response


async def _answer(request: web.Request, handler: Handler, exchange: Exchange) -> web.StreamResponse:
    try:
        return await handler(request)
    except errors.RillError as e:
        exchange.outcome = e.outcome
        return error_response(e)
    except web.HTTPException as e:
        if e.status < 400:
            raise
        error = from_http(e)
        exchange.outcome = error.outcome
        response = error_response(error)
        if "Allow" in e.headers:
            response.headers["Allow"] = e.headers["Allow"]
        response.set_status(e.status)
        return response
    except ConnectionError:
        raise
    except Exception as e:
        unexpected.error("unexpected error", extra={"request": exchange.id, **log.where(e)})
        exchange.outcome = "failed"
        return await _apologise(exchange)


async def _apologise(exchange: Exchange) -> web.StreamResponse:
    """For an internal error: a 500, or, once the headers are sent, an event in the stream's dialect."""
    error = errors.RillError("Internal server error.")
    response = exchange.response
    if response is None or not response.prepared:
        return error_response(error)
    if exchange.stream is not None:
        await response.write(exchange.stream.dialect.failure(error) + b"\n\n")
    await response.write_eof()
    return response


def _template(request: web.Request) -> str:
    """The route's template under its first name, never the path: a path may hold user input."""
    resource = request.match_info.route.resource
    return ALIASES.get(resource.canonical, resource.canonical) if resource is not None else "unknown"


def _log(request: web.Request, exchange: Exchange, duration_s: float) -> None:
    stream = exchange.stream
    line: dict[str, Any] = {
        "request": exchange.id,
        "method": request.method,
        "route": exchange.route,
        "status": exchange.status,
        "outcome": exchange.outcome or ("ok" if stream is None else stream.outcome or "left"),
        "duration_s": round(duration_s, 4),
    }
    if stream is not None:
        line["stream"] = stream.id[:8]  # a whole id grants reading it
        line["attached"] = exchange.attached
        line["prompt_tokens"] = stream.n_prompt
        line["completion_tokens"] = len(stream.tokens)
        if stream.summary is not None:
            line |= stream.summary.timings()
    level = logging.DEBUG if exchange.route in ("/healthz", "/readyz", "/metrics") else logging.INFO
    log.requests.log(level, "request", extra=line)
