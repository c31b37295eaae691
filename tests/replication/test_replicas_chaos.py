"""Replicas and Redis fail in any order: a reader that reconnects until the end gets every event once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import aiohttp
import pytest

from tests.conftest import Serve, Service
from tests.events import Event, numbers, parse, text
from tests.patience import PATIENCE_S
from tests.redis_server import RedisServer
from tests.replicas import kill, resume, suspend

pytestmark = pytest.mark.e2e

LEASE_S = 0.6
N_STREAMS = 8
N_FAULTS = 16  # more than happen on an idle machine, where the streams take some ten seconds
PIECES = tuple(f" {n}" for n in range(400))


class World:
    """Three replicas, of which at least one is alive, and the faults that are injected."""

    def __init__(self, services: list[Service], redis: RedisServer, seed: int) -> None:
        self.alive, self.redis, self.random = services, redis, random.Random(seed)
        self.history: list[str] = []

    def any(self) -> Service:
        return self.random.choice(self.alive)

    async def inject_faults(self) -> None:
        """One fault after another, but not for ever: a busy machine has to reach the streams' ends between them."""
        for _ in range(N_FAULTS):
            await asyncio.sleep(self.random.uniform(0.1, 0.8))
            fault = self.random.choice([self.lose_a_replica, self.stall_a_replica, self.stall_redis, self.cut_redis])
            self.history.append(fault.__name__)
            await fault()

    async def lose_a_replica(self) -> None:
        if len(self.alive) > 1:
            dead = self.any()
            self.alive.remove(dead)
            await kill(dead)
            await dead.engine.stop()
            for site in list(dead.runner.sites):
                await site.stop()
            await asyncio.sleep(0.1)  # for connections that were on the way to it
            await kill(dead)

    async def stall_a_replica(self) -> None:
        stalled = self.any()
        await suspend(stalled)
        await asyncio.sleep(self.random.uniform(0, 3 * LEASE_S))
        resume(stalled)

    async def stall_redis(self) -> None:
        self.redis.pause()
        await asyncio.sleep(self.random.uniform(0, 2))
        self.redis.resume()

    async def cut_redis(self) -> None:
        await asyncio.to_thread(self.redis.restart)

    async def start(self) -> str:
        async with self.any().client.post("/v1/streams", json={"prompt": "count"}) as response:
            id: str = (await response.json())["id"]
            return id

    async def read(self, id: str) -> tuple[str, list[Event]]:
        """A stream from its start to its end, from any of the replicas."""
        events: list[Event] = []
        while not events or events[-1].name not in ("done", "failure"):
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": events[-1].id} if events else {})
            raw = b""
            with suppress(aiohttp.ClientError):
                async with self.any().client.get(f"/v1/streams/{id}", headers=headers) as response:
                    raw = await self._read_some(response)
            events += parse(raw)
            await asyncio.sleep(0.01)
        return id, events

    async def _read_some(self, response: aiohttp.ClientResponse) -> bytes:
        """It may leave in the middle; what it has received by then counts."""
        raw, enough = b"", self.random.choice([200, 2000, 1 << 20])
        with suppress(aiohttp.ClientError):
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > enough:
                    break
        return raw


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost(serve: Serve, redis: RedisServer, seed: int) -> None:
    """Every reader ends with `done`, has each number once, and the whole text."""
    settings = {"redis_url": redis.url, "lease_s": LEASE_S, "n_seq": 32, "by_hand": True}
    world = World([await serve(**settings) for _ in range(3)], redis, seed)
    for service in world.alive:
        service.engine.by_hand, service.engine.pause_s, service.engine.pieces = False, 0.01, PIECES
    ids = [await world.start() for _ in range(N_STREAMS)]
    fault = asyncio.create_task(world.inject_faults())
    try:
        async with asyncio.timeout(PATIENCE_S):
            read = await asyncio.gather(*(world.read(id) for id in ids))
    finally:
        fault.cancel()
        redis.resume()
    for id, events in read:
        assert list(range(len(events))) == numbers(events, id), world.history
        assert ("done", "".join(PIECES)) == (events[-1].name, text(events)), world.history
