"""A service whose every event the test sends by hand. It speaks the wire of a Rill stream and serves the real page."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.patience import PATIENCE_S

WEB = Path(__file__).parents[2] / "service" / "web"

# The page must live with this policy: it is what makes text from a model harmless even if a line of the page is wrong.
POLICY = "default-src 'self'"


class Connection:
    """One reader's GET: the test refuses it or opens it, then writes events to it until it finishes or cuts it."""

    def __init__(self, request: web.Request, key: str, stream: str, numbers: Counter[str]) -> None:
        self.key = key
        self.stream = stream
        self.query = request.query
        # As the service does: the header, which the browser keeps current, goes before the query.
        self.last_event_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
        self.finished = asyncio.Event()
        self.left = asyncio.Event()  # the browser closed it
        self.response: web.StreamResponse = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        self._request = request
        self._numbers = numbers

    async def open(self) -> None:
        """The headers, and a wait before reconnections that a test can afford, inside the first block."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
            await self.response.write(b"retry: 50\n")

    async def send(self, event: str, data: object, *, number: int | None = None) -> str:
        """One event, as compact as the service writes it; returns its id. Without a number: the stream's next."""
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

    def refuse(self, status: int) -> None:
        """An answer that an EventSource cannot read: anything but 200, 204 included."""
        self.response = web.Response(status=status, text="{}", content_type="application/json")
        self.finished.set()

    def cut(self) -> None:
        """The network goes: no end of the chunked body, just a closed socket."""
        assert self._request.transport is not None
        self._request.transport.abort()
        self.finished.set()


class Service:
    """The routes that the page uses; `connected` and `deleted` are what the test waits on."""

    def __init__(self) -> None:
        self.connected: asyncio.Queue[Connection] = asyncio.Queue()
        self.deleted: asyncio.Queue[str] = asyncio.Queue()
        self.generations: list[str] = []  # the keys that started one, in order
        self.url = ""  # set once it listens
        self.posted: list[dict[str, Any]] = []  # the bodies of POST /v1/streams
        self.refusal: web.Response | None = None  # what POST /v1/streams is answered; None: 201
        self.loaded = True  # or /v1/models is answered 503
        self.answering = asyncio.Event()  # clear: a POST waits for its answer
        self.answering.set()
        self._numbers: Counter[str] = Counter()
        self.app = web.Application()
        self.app.router.add_get("/", self._asset)
        self.app.router.add_get("/web/{name}", self._asset)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/stream", self._start, allow_head=False)
        self.app.router.add_post("/v1/streams", self._create)
        self.app.router.add_get("/v1/streams/{stream}", self._attach, allow_head=False)
        self.app.router.add_delete("/v1/streams/{stream}", self._delete)

    async def next(self) -> Connection:
        async with asyncio.timeout(PATIENCE_S):
            return await self.connected.get()

    async def listen(self) -> web.AppRunner:
        """Starts on a free port. A handler is cancelled when its browser leaves, as in the real service."""
        runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}/".format(*runner.addresses[0])
        return runner

    async def _asset(self, request: web.Request) -> web.FileResponse:
        name = request.match_info.get("name", "index.html")
        return web.FileResponse(WEB / name, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    async def _models(self, _: web.Request) -> web.Response:
        if not self.loaded:
            return web.json_response({"error": {"message": "Loading.", "code": "not_ready"}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": "starter-q8_0", "object": "model"}]})

    async def _start(self, request: web.Request) -> web.StreamResponse:
        return await self._read(request, request.query["key"])

    async def _create(self, request: web.Request) -> web.Response:
        self.posted.append(await request.json())
        await self.answering.wait()
        if self.refusal is not None:
            return self.refusal
        stream = self._stream(self.posted[-1]["key"])
        return web.json_response({"id": stream, "url": f"/v1/streams/{stream}"}, status=201)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["stream"].removeprefix("stream"))
        return await self._read(request, self.generations[number])

    async def _read(self, request: web.Request, key: str) -> web.StreamResponse:
        connection = Connection(request, key, self._stream(key), self._numbers)
        self.connected.put_nowait(connection)
        try:
            await connection.finished.wait()
        except asyncio.CancelledError:
            connection.left.set()
            raise
        return connection.response

    def _stream(self, key: str) -> str:
        """The id of the stream that this key names; a new key is a new generation."""
        if key not in self.generations:
            self.generations.append(key)
        return f"stream{self.generations.index(key)}"

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.put_nowait(request.match_info["stream"])
        return web.Response(status=204)
