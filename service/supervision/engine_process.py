"""What the front needs of the engine's process: a Supervisor, or what tests put in its place."""

from __future__ import annotations

from typing import Protocol

from service.protocol.frames import Ready, Submit
from service.supervision.supervisor import State


class EngineProcess(Protocol):
    """What the front needs of a supervisor."""

    state: State
    progress: float
    reason: str
    info: Ready | None
    digest: str  # of the model's file

    def start(self) -> None: ...
    async def stop(self) -> None: ...
    def submit(self, submit: Submit, /) -> None: ...
    def cancel(self, id: str, /) -> None: ...
