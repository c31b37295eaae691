"""Several replicas that share a Redis, in one process: scripted engines, the real log between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.replication import end
from tests.conftest import Service


async def until(condition: Callable[[], bool], within_s: float = 15) -> None:
    """Waits for what goes on elsewhere, over the network, and has no event of its own here."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def suspend(service: Service) -> None:
    """It does not reach the store any more, and lives on."""
    replication = service.rill.replication
    assert replication is not None
    await end(replication._tasks)
    replication.writer._go_ahead()


def resume(service: Service) -> None:
    """It reaches the store again."""
    assert service.rill.replication is not None
    service.rill.replication.start()


async def kill(service: Service) -> None:
    """It dies at once: no flush, no word to anyone, every connection cut."""
    await suspend(service)
    assert service.rill.replication is not None
    service.rill.replication.writer.copies.clear()
    for reader in list(service.rill.streams._readers):
        reader.stall()
    service.engine.by_hand = True
