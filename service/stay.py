"""What a container does whose settings can't be used: it stays for a while and says why.

Were it to exit at once, Docker would start it again and again, and who waits for its health would see it starting for
ever. It exits in the end, for what was wrong may have been mended outside: a model is there now, or memory is free.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Any

from aiohttp import web

from service.handlers.ops import OpsRoutes
from service.listen import listen


async def stay(reason: str, seconds: float, *, port: int) -> None:
    """Answer /readyz with 503 and the reason, to this machine alone, for so long or until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    body: dict[str, Any] = {"ready": False, "reason": "settings", "message": reason}
    ops = OpsRoutes(readiness=lambda: body, metrics=lambda: b"")
    app = web.Application()
    app.add_routes([web.get("/readyz", ops.readyz)])
    runner = None
    with suppress(OSError):  # what is wrong may be that somebody else listens there
        runner, _ = await listen(app, "127.0.0.1", port)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopped.wait()
    finally:
        if runner is not None:
            await runner.cleanup()
