"""The page at / and its files under /web. Read once at start: a request's path never reaches the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiohttp import web

from service.errors import NotFound

# Our own table: the system's mimetypes differ from machine to machine, and nosniff makes a wrong one fatal.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class PageRoutes:
    """Serves `root`/index.html at / and every file of a known type below `root` at /web/."""

    def __init__(self, root: Path) -> None:
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix in TYPES]
        self._files = {path.relative_to(root).as_posix(): _File(path) for path in files}

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self.index), web.get("/web/{name:.+}", self.file)]

    async def index(self, request: web.Request) -> web.Response:
        return self._serve(request, "index.html")

    async def file(self, request: web.Request) -> web.Response:
        return self._serve(request, request.match_info["name"])

    def _serve(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise NotFound("There is no resource at this URL.")
        # no-cache: cached, but revalidated each time, so a new release shows at once
        headers = {**SECURITY, "Content-Type": file.type, "Cache-Control": "no-cache", "ETag": f'"{file.etag}"'}
        if any(tag.value == file.etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers=headers)


class _File:
    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.type = TYPES[path.suffix]
        self.etag = hashlib.sha256(self.body).hexdigest()[:16]
