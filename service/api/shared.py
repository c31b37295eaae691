"""What the routes that generate or read streams have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from service.api.access import Access
from service.api.body import Bodies
from service.api.choices import Choices
from service.api.resume import Resuming
from service.errors import NotReady
from service.protocol.frames import Ready
from service.streams.directory import Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """`loaded()` is what the engine runs, or None before it is ready."""

    directory: Directory
    access: Access
    resuming: Resuming
    choices: Choices
    bodies: Bodies
    loaded: Callable[[], Ready | None]
    version: str

    def ready(self) -> Ready:
        """What the engine runs. Raises NotReady."""
        ready = self.loaded()
        if ready is None:
            raise NotReady("The model is being loaded.", retry_after_s=2.0)
        return ready
