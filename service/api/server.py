"""The listening socket and aiohttp's server on it: connection limits, and error responses to invalid HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from service.api.middleware import error_response
from service.errors import ExpectationFailed, Invalid, RillError

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger("service.connection")

# The kernel doubles it. A stalled reader then holds 128 KiB there and 64 KiB in aiohttp, where the default let
# 2.88 MB pile up; an event stream needs a fraction of it.
SEND_BUFFER_BYTES = 64 << 10
BACKLOG = 1024
KEEPALIVE_S = 75.0  # longer than nginx keeps its upstream connections
CLOSE_S = 1.0  # twice: for handlers still writing when the listener is closed, to clients that don't read


async def listen(app: web.Application, host: str, port: int, *, silence_s: float = 30.0) -> tuple[web.BaseRunner, str]:
    """Serve `app`; returns its runner and its address as a URL. Raises OSError if the address can't be bound.

    silence_s: a connection whose host acknowledges neither data nor probes for this long is closed.
    """
    sock = _socket(host, port, silence_s)
    started = web.AppRunner(app)
    await started.setup()
    runner = _Runner(started)
    await runner.setup()
    await web.SockSite(runner, sock, backlog=BACKLOG).start()
    name, number = sock.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else "127.0.0.1" if name == "0.0.0.0" else name
    return runner, f"http://{shown}:{number}"


def _socket(host: str, port: int, silence_s: float) -> socket.socket:
    info = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by each connection, as are the next ones.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        _find_silent_peers(sock, silence_s)
        sock.bind(info[4])
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _find_silent_peers(sock: socket.socket, silence_s: float) -> None:
    """A vanished host sends no FIN. The kernel would retransmit unacknowledged data for a quarter of an hour; with
    none (an answer in one piece is being generated) it would probe after two hours."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        probe_s = max(1, int(silence_s / 4))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(1000 * silence_s)))


class _Connection(web.RequestHandler):
    """aiohttp's connection, with its own errors in OpenAI's format and log lines that quote nothing."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers unparsable requests (e.g. a URL or header beyond 8,190 bytes), and errors outside of any route."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client left in the middle of a write; its exchange has been logged
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already started")
        if status < 500:
            error: RillError = Invalid("The request is not valid HTTP, or its URL or headers are too long.")
        else:
            error = RillError("Internal server error.")
        return _refused(error, status, type(exc).__name__)

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        log.error("connection error", extra={"error": type(error).__name__})


def _refused(error: RillError, status: int, kind: str) -> web.Response:
    """Answers a request that reached no route; the connection ends."""
    id = secrets.token_hex(16)
    log.info("malformed request", extra={"request": id, "status": status, "error": kind})
    response = error_response(error)
    response.set_status(status)
    response.headers["X-Request-ID"] = id
    response.force_close()
    return response


def _misfit(request: web.BaseRequest) -> RillError | None:
    """The error where aiohttp would answer in plain text, or in an unsupported HTTP version."""
    if request.version not in (HttpVersion10, HttpVersion11):
        request._cache["version"] = HttpVersion11  # the response's version; else it would be the request's
        return Invalid("Only HTTP/1.0 and HTTP/1.1 are supported.")
    expected = request.headers.get(hdrs.EXPECT, "").lower()
    if request.version == HttpVersion11 and expected not in ("", "100-continue"):
        return ExpectationFailed("The only supported expectation is 100-continue.")
    return None


def _checked(handle: _Handler) -> _Handler:
    async def checked(request: web.BaseRequest) -> web.StreamResponse:
        error = _misfit(request)
        return await handle(request) if error is None else _refused(error, error.status, type(error).__name__)

    return checked


class _Server(web.Server):
    """An application's server whose connections are the class above: aiohttp's own has no parameter for it."""

    def __init__(self, app: web.Server) -> None:
        super().__init__(
            _checked(app.request_handler),
            request_factory=app.request_factory,
            handler_cancellation=True,  # a handler that waits for a token must learn that its client left
        )

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp's type leaves out that there may be none
            keepalive_timeout=KEEPALIVE_S,
            auto_decompress=False,  # a zip bomb is refused unread
        )


class _Runner(web.ServerRunner):
    """Closes the connections, then the application that another runner has started."""

    def __init__(self, started: web.AppRunner) -> None:
        assert started.server is not None
        super().__init__(_Server(started.server), shutdown_timeout=CLOSE_S)
        self._started = started

    async def cleanup(self) -> None:
        await super().cleanup()
        await self._started.cleanup()
