"""Limits the event loop's time for parsing large bodies: a tenant's get a twentieth of it, one after another.

A megabyte of JSON that is mostly brackets takes 10 to 20 ms to parse and refuse, during which no stream sends a
token, and no client needs fifty of them a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.errors import QueueFull

LARGE = 32 << 10  # bytes; a smaller body takes half a millisecond at most, and never waits
REST = 19.0  # times a body's parse time, before the tenant's next: a stall of 20 ms comes 2.5 times a second
MOST_WAITING = 64 << 20  # bytes of one tenant's waiting bodies


@dataclass(slots=True)
class _Tenant:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    free_at: float = 0.0
    n_waiting: int = 0  # bytes, with those of the body being parsed


class ParseBudget:
    """Per tenant; there are no more tenants than API keys."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """cpu: this thread's CPU time in seconds: other processes on its core make no body more expensive."""
        self._clock, self._cpu, self._sleep = clock, cpu, sleep
        self._tenants: dict[str, _Tenant] = {}

    @asynccontextmanager
    async def turn(self, tenant: str, n_bytes: int) -> AsyncIterator[None]:
        """Parse a body of n_bytes within it, without awaiting. Raises QueueFull where too many bytes wait."""
        if n_bytes < LARGE:
            yield
            return
        its = self._tenants.setdefault(tenant, _Tenant())
        if its.n_waiting + n_bytes > MOST_WAITING:
            raise QueueFull("Too many large requests with this API key are waiting to be parsed.", retry_after_s=1.0)
        its.n_waiting += n_bytes
        try:
            async with its.lock:
                if (wait_s := its.free_at - self._clock()) > 0:
                    await self._sleep(wait_s)
                began = self._cpu()
                try:
                    yield
                finally:
                    its.free_at = self._clock() + REST * (self._cpu() - began)
        finally:
            its.n_waiting -= n_bytes
