"""Keeps a container with invalid settings up for a while, with the reason at /readyz.

If it exited at once, Docker would restart it repeatedly, and health checks would show it starting for ever. It
exits in the end, since the cause may have been fixed outside: a model is there now, or memory is free.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

from aiohttp import web

from service.api.ops_routes import OpsRoutes
from service.api.server import listen


async def stay(reason: str, seconds: float, *, port: int) -> None:
    """Answer /readyz with 503 and the reason, on loopback only, for `seconds` or until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    body: dict[str, Any] = {"ready": False, "reason": "settings", "message": reason}
    ops = OpsRoutes(readiness=lambda: body, metrics=lambda: (b"", "text/plain"))
    app = web.Application()
    app.add_routes([web.get("/readyz", ops.readyz)])
    runner = None
    with suppress(OSError):  # the error may be that the port is taken
        runner, _ = await listen(app, "127.0.0.1", port)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopped.wait()
    finally:
        if runner is not None:
            await runner.cleanup()
