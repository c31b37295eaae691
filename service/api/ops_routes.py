"""/healthz, /readyz, /health, /metrics: for operators. None of them queries the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from service.errors import NotReady

NO_STORE = {"Cache-Control": "no-store"}


class OpsRoutes:
    """`readiness()` is the body of /readyz; `metrics()` the exposition and its Content-Type."""

    def __init__(self, *, readiness: Callable[[], dict[str, Any]], metrics: Callable[[], tuple[bytes, str]]) -> None:
        self._readiness = readiness
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/health", self.health),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, request: web.Request) -> web.Response:
        """200 as long as the front answers at all."""
        return web.json_response({"healthy": True}, headers=NO_STORE)

    async def readyz(self, request: web.Request) -> web.Response:
        """200 while new streams should be sent: the engine is loaded and alive, and no drain began."""
        body = self._readiness()
        return web.json_response(body, status=200 if body["ready"] else 503, headers=NO_STORE)

    async def health(self, request: web.Request) -> web.Response:
        """llama-server's response at this path: tools that wait for one poll it."""
        is_ready = self._readiness()["ready"]
        body: dict[str, Any] = {"status": "ok"}
        if not is_ready:
            body = NotReady("The model is being loaded, or the service is draining; see /readyz.").body()
        return web.json_response(body, status=200 if is_ready else 503, headers=NO_STORE)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})
