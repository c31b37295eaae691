"""/openapi.json and /docs: the API's description, for programs and to read, both made once, at the start. /version."""

from __future__ import annotations

import hashlib

import orjson
from aiohttp import web

from service.api.openapi import document
from service.api.page_routes import SECURITY
from service.api.reference_page import page

FRESH = "public, max-age=300"  # for as long a client may not notice another version


class DescriptionRoutes:
    """`version` is the service's."""

    def __init__(self, version: str) -> None:
        self._version = version
        described = document(version)
        self._document = _Text(orjson.dumps(described), "application/json")
        self._page = _Text(page(described).encode(), "text/html; charset=utf-8")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/openapi.json", self.openapi),
            web.get("/docs", self.docs),
            web.get("/version", self.version),
        ]

    async def openapi(self, request: web.Request) -> web.Response:
        return self._document.answer(request)

    async def docs(self, request: web.Request) -> web.Response:
        return self._page.answer(request)

    async def version(self, request: web.Request) -> web.Response:
        """vLLM's response at this path."""
        return web.json_response({"version": self._version}, headers={"Cache-Control": "no-store"})


class _Text:
    """A text that is served as it stands."""

    def __init__(self, body: bytes, kind: str) -> None:
        self._body = body
        self._etag = hashlib.sha256(body).hexdigest()[:16]
        self._headers = {**SECURITY, "Content-Type": kind, "Cache-Control": FRESH, "ETag": f'"{self._etag}"'}

    def answer(self, request: web.Request) -> web.Response:
        if any(tag.value == self._etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=self._headers)
        return web.Response(body=self._body, headers=self._headers)
