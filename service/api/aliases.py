"""Other names of routes, as clients of other servers call them, and which paths are guarded against other sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aiohttp import web

# Clients that are given an address without /v1. llama-server's own /completions is its native one: here it is OpenAI's.
ALIASES = {
    "/chat/completions": "/v1/chat/completions",
    "/completions": "/v1/completions",
    "/models": "/v1/models",
    "/models/{name:.+}": "/v1/models/{name:.+}",
    "/v1/health": "/health",
}
OPEN = "/v1/health"  # as /health
GUARDED = frozenset({"/stream", "/completion", "/props", *ALIASES})


def with_aliases(routes: Iterable[web.RouteDef]) -> Iterator[web.RouteDef]:
    """These routes, each followed by its other names."""
    for route in routes:
        yield route
        for alias, path in ALIASES.items():
            if path == route.path:
                yield web.RouteDef(route.method, alias, route.handler, route.kwargs)


def is_guarded(path: str) -> bool:
    """Whether a page of another site may not call it: it starts work, or needs an API key where there are any."""
    return path != OPEN and (path.startswith(("/v1/", "/models/")) or path in GUARDED)
