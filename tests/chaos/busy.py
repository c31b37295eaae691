"""Busy processes: loops, each of which uses a core for as long as it lives."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def busy(n: int) -> AsyncIterator[None]:
    """n busy processes, while the context lasts."""
    loops: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(n):
            loops.append(await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass"))
        yield
        assert all(loop.returncode is None for loop in loops), "a busy process has ended"
    finally:
        for loop in loops:
            if loop.returncode is None:
                loop.kill()
            await loop.wait()
