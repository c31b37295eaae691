"""Access control: API key, origin, model name. Keys are compared in constant time; origins are an exact list."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from service.api.aliases import is_guarded
from service.errors import Forbidden, ModelNotFound, Unauthorized

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

EXPOSED = "X-Stream-Id, X-Request-ID, Retry-After, retry-after-ms"
OUR_HEADERS = "Authorization, Content-Type, Last-Event-ID, Idempotency-Key, X-Resumable"
PREFLIGHT_S = 600


class Access:
    """An empty list disables a check: no keys, any model name. No allowed origin: own pages only."""

    def __init__(
        self,
        *,
        api_keys: tuple[str, ...],
        origins: tuple[str, ...],
        model_names: tuple[str, ...],
        streams_need_key: bool = False,
    ) -> None:
        """streams_need_key: reading a stream by its id also needs the key that started it."""
        self._keys = [_digest(key) for key in api_keys]
        self._streams_need_key = streams_need_key
        self._origins = frozenset(origins)
        self.model_names = model_names

    def tenant(self, request: web.Request) -> str:
        """The tenant: a name for the request's API key, "" where no keys are set. Raises Unauthorized."""
        if not self._keys:
            return ""
        scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, known) for known in self._keys]  # all of them: no early exit
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("A valid API key is required: Authorization: Bearer <key>.")
        return given.hex()[:16]

    def check_reader(self, request: web.Request, maker: str) -> None:
        """A stream's id grants reading it; a key, if sent, must be the one that started it.

        Raises Unauthorized or Forbidden.
        """
        is_asked = self._streams_need_key or hdrs.AUTHORIZATION in request.headers
        if is_asked and self.tenant(request) != maker:
            raise Forbidden("This stream was created with another API key.")

    def check_model(self, name: str | None) -> None:
        """Raises ModelNotFound when the names are limited and this is none of them."""
        if name is not None and self.model_names and name not in self.model_names:
            raise ModelNotFound("There is no model with this name; see /v1/models.", param="model")

    def allowed_origin(self, request: web.Request) -> str | None:
        """The request's origin, if it is an allowed one."""
        origin = request.headers.get(hdrs.ORIGIN)
        return origin if origin in self._origins else None

    def check_site(self, request: web.Request) -> None:
        """Raises Forbidden for a prefetch and for a cross-site request: neither may start work."""
        purpose = request.headers.get("Sec-Purpose", request.headers.get("Purpose", ""))
        if "prefetch" in purpose.lower():
            raise Forbidden("This URL can't be prefetched: a request for it starts a generation.")
        if _is_cross_site(request) and self.allowed_origin(request) is None:
            raise Forbidden("Pages of this origin may not call this service (RILL_ALLOWED_ORIGINS).")

    async def on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal: CORS headers, for allowed origins only."""
        if self._origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if origin := self.allowed_origin(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    def middleware(self) -> Any:
        """The checks of `check_site` for guarded paths, and the answer to a preflight."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if is_guarded(request.path):
                if request.method != hdrs.METH_OPTIONS:
                    self.check_site(request)
                elif self.allowed_origin(request):
                    return _preflight(request)
            return await handler(request)

        return middleware


def _is_cross_site(request: web.Request) -> bool:
    """Whether another site's page sent it. Browsers send Sec-Fetch-Site to https and loopback addresses; to others
    `Origin` alone, with anything but a plain GET. Other clients send neither."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site.lower() == "cross-site"
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and _host(origin) != _host(f"//{request.host}")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # "http://["
        return url


def _preflight(request: web.Request) -> web.Response:
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: asked or OUR_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_S),
        },
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
