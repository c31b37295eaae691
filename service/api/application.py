"""The routes that generate or read streams, put together."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from service.api.access import Access
from service.api.aliases import with_aliases
from service.api.body import Bodies
from service.api.choices import Choices
from service.api.llama_server_routes import LlamaServerRoutes
from service.api.openai_routes import OpenAIRoutes
from service.api.resume import Attached, Resuming
from service.api.shared import Shared
from service.api.stream_routes import StreamRoutes
from service.protocol.frames import Ready
from service.streams.directory import Directory


def generating_routes(
    *,
    directory: Directory,
    access: Access,
    bodies: Bodies,
    loaded: Callable[[], Ready | None],
    attached: Attached,
    version: str,
) -> list[web.RouteDef]:
    """Also by their other addresses. loaded: what the engine runs, or None before it is ready; attached: see
    Resuming."""
    choices = Choices(directory, access)
    resuming = Resuming(directory=directory, access=access, choices=choices, attached=attached)
    shared = Shared(
        directory=directory,
        access=access,
        resuming=resuming,
        choices=choices,
        bodies=bodies,
        loaded=loaded,
        version=version,
    )
    kinds = (StreamRoutes(shared), OpenAIRoutes(shared), LlamaServerRoutes(shared))
    return [route for routes in kinds for route in with_aliases(routes.routes())]
