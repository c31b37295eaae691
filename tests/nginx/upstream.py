"""A scripted replica: an aiohttp server that answers as a test says, and records its requests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    """One request as it arrived here."""

    method: str
    path_qs: str
    headers: dict[str, str]
    version: tuple[int, int]
    connection: int


async def plain(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


@dataclass
class Upstream:
    """`answer` handles everything but /readyz, which reports whether it is `ready` (and is not in `asked`)."""

    port: int = 0
    ready: bool = True
    answer: Answer = plain
    asked: list[Asked] = field(default_factory=list)
    _runner: web.ServerRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = web.Server(self._serve, handler_cancellation=True, keepalive_timeout=75)  # the service's own figure
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        if request.path == "/readyz":
            return web.Response(status=200 if self.ready else 503)
        self.asked.append(
            Asked(
                request.method,
                request.path_qs,
                dict(request.headers),
                (request.version.major, request.version.minor),
                id(request.transport),
            )
        )
        return await self.answer(request)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def upstream(answer: Answer = plain) -> AsyncIterator[Upstream]:
    one = Upstream(answer=answer)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


async def open_stream(request: web.BaseRequest, content_type: str = "text/event-stream") -> web.StreamResponse:
    """Sends the head of a stream and returns it, to be written to."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    return response


def crash(request: web.BaseRequest) -> None:
    """Ends the connection as a killed process does: no last chunk, no answer."""
    assert request.transport is not None
    request.transport.abort()


async def never() -> None:
    await asyncio.Event().wait()
