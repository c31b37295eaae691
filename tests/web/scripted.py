"""A service whose events the test sends by hand. It has the format of a Rill stream and serves the real page."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.patience import PATIENCE_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

WEB = Path(__file__).parents[2] / "service" / "web"

# The page must work with this policy: it makes a model's text harmless even if a line of the page is wrong.
POLICY = "default-src 'self'"


class Connection:
    """One reader's request: the test refuses or opens it, then writes events to it until it finishes or cuts it."""

    def __init__(self, request: web.Request, asked: dict[str, Any], stream: str, numbers: Counter[str]) -> None:
        self.asked = asked  # a POST's body, a GET's query
        self.key: str = request.query["key"]
        self.stream = stream
        self.last_event_id = request.headers.get("Last-Event-ID")
        self.finished = asyncio.Event()
        self.left = asyncio.Event()  # the browser closed it
        self.response: web.StreamResponse = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Stream-Id": stream}
        )
        self._request = request
        self._numbers = numbers

    async def open(self) -> None:
        """Sends the headers, and in the first block a short reconnection time."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
            await self.response.write(b"retry: 50\n")

    async def send(self, event: str, data: object, *, number: int | None = None) -> str:
        """Sends one event, as compact as the service's; returns its id. Without a number it is the stream's next."""
        await self.open()
        if number is None:
            number = self._numbers[self.stream]
            self._numbers[self.stream] += 1
        name = f"{self.stream}.{number}"
        kind = "" if event == "message" else f"event: {event}\n"
        await self.response.write(f"id: {name}\n{kind}data: {json.dumps(data)}\n\n".encode())
        return name

    async def status(self, phase: str, **detail: float) -> None:
        await self.send("status", {"phase": phase, **detail})

    async def text(self, *deltas: str) -> None:
        for delta in deltas:
            await self.send("message", {"text": delta})

    async def done(self, *, tokens: int = 3, finish_reason: str = "stop", **timings: float) -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
        await self.send("done", {"finish_reason": finish_reason, "usage": usage, "timings": timings})
        self.finished.set()

    async def failure(self, data: dict[str, Any]) -> None:
        await self.send("failure", data)
        self.finished.set()

    def refuse(self, status: int, *, body: str = "{}", retry_after: str | None = None) -> None:
        """Answers without a stream."""
        headers = {"Retry-After": retry_after} if retry_after else None
        self.response = web.Response(status=status, text=body, content_type="application/json", headers=headers)
        self.finished.set()

    def cut(self) -> None:
        """The network fails: no end of the chunked body, only a closed socket."""
        if self._request.transport is not None:  # otherwise the browser was faster
            self._request.transport.abort()
        self.finished.set()


class Service:
    """The routes that the page uses; the test waits on `connected` and `deleted`."""

    def __init__(self) -> None:
        self.connected: asyncio.Queue[Connection] = asyncio.Queue()
        self.deleted: asyncio.Queue[str] = asyncio.Queue()
        self.generations: list[str] = []  # the keys of the requests that started one, in order
        self.url = ""  # set once it listens
        self.addresses: list[str] = []  # of every request, as an access log would have them
        self.api_key = ""  # required as a Bearer token, if set
        self.loaded = True  # otherwise /v1/models answers 503
        self._numbers: Counter[str] = Counter()
        self._reading: set[Connection] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.app = web.Application(middlewares=[self._guard])
        self.app.router.add_get("/", self._asset)
        self.app.router.add_get("/web/{name}", self._asset)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_post("/stream", self._start)
        self.app.router.add_get("/v1/streams/{stream}", self._attach, allow_head=False)
        self.app.router.add_delete("/v1/streams/{stream}", self._delete)

    async def next(self) -> Connection:
        async with asyncio.timeout(PATIENCE_S):
            return await self.connected.get()

    async def listen(self) -> None:
        """Listens on a free port, later on the same one. A handler is cancelled when its browser leaves, as in the
        service."""
        self._runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}/"

    async def leave(self) -> None:
        """Becomes unreachable: its connections break, and new ones are refused."""
        assert self._runner is not None
        for connection in self._reading:  # otherwise aiohttp would wait for them
            connection.cut()
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.addresses.append(str(request.url))
        is_asked = bool(self.api_key) and request.path.startswith(("/v1/", "/stream"))
        if is_asked and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            error = {"message": "A valid API key is needed.", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401, headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        return web.FileResponse(WEB / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    async def _models(self, _: web.Request) -> web.StreamResponse:
        if not self.loaded:
            return web.json_response({"error": {"message": "Loading.", "code": "not_ready"}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": "starter-q8_0", "object": "model"}]})

    async def _start(self, request: web.Request) -> web.StreamResponse:
        """A request with a new key starts a stream, any other one attaches to its key's stream."""
        asked = await request.json()
        key = asked["key"]
        if key not in self.generations:
            self.generations.append(key)
        return await self._read(request, asked, f"stream{self.generations.index(key)}")

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        return await self._read(request, dict(request.query), request.match_info["stream"])

    async def _read(self, request: web.Request, asked: dict[str, Any], stream: str) -> web.StreamResponse:
        connection = Connection(request, asked, stream, self._numbers)
        self._reading.add(connection)
        self.connected.put_nowait(connection)
        try:
            await connection.finished.wait()
        except asyncio.CancelledError:
            connection.left.set()
            raise
        finally:
            self._reading.discard(connection)
        return connection.response

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        self.deleted.put_nowait(request.match_info["stream"])
        return web.Response(status=204)
