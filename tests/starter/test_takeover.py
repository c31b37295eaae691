"""Two real replicas with the starter and one Redis: the one that generates is killed, and the text is the same."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.events import Event, numbers, parse, text
from tests.redis_server import RedisServer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
N_STREAMS = 16
ASKED = {"prompt": "Tell me a story about a fox", "max_tokens": 400, "ignore_eos": True}


@dataclass
class Replica:
    process: asyncio.subprocess.Process
    client: aiohttp.ClientSession

    def kill(self) -> None:
        """The front and its engine, as if the machine had gone."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)


Start = Callable[[], Awaitable[Replica]]


@pytest.fixture
async def start(redis: RedisServer) -> AsyncIterator[Start]:
    """`await start()`: one more replica, ready."""
    started: list[Replica] = []
    settings = {"RILL_PORT": "0", "RILL_REDIS_URL": redis.url, "RILL_KV_TYPE": "bf16", "RILL_N_THREADS": "1"}

    async def one() -> Replica:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service"),
            cwd=ROOT,
            env=os.environ | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[3].rstrip("/")
        replica = Replica(process, aiohttp.ClientSession(url))
        started.append(replica)
        async with asyncio.timeout(60):
            while not await is_ready(replica):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)
        return replica

    yield one
    for replica in started:
        await replica.client.close()
        replica.kill()
        await replica.process.wait()


async def is_ready(replica: Replica) -> bool:
    async with replica.client.get("/readyz") as response:
        return response.status == 200


async def read_until_cut(response: aiohttp.ClientResponse, enough: Callable[[bytes], bool]) -> bytes:
    """What comes until `enough` says so, or the connection ends."""
    raw = b""
    with suppress(aiohttp.ClientError):
        async for chunk in response.content.iter_any():
            raw += chunk
            if enough(raw):
                break
    return raw


async def resumed(replica: Replica, last: Event) -> list[Event]:
    """What follows: from this replica, as soon as it knows the stream."""
    async with replica.client.get("/stream", headers={"Last-Event-ID": last.id}) as response:
        return parse(await response.read())


async def asked(replica: Replica, seed: int) -> list[Event]:
    async with replica.client.post("/stream", json={**ASKED, "seed": seed}) as response:
        return parse(await response.read())


async def metric(replica: Replica, name: str) -> float:
    async with replica.client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_the_text_survives_its_replica(start: Start) -> None:
    """Sixteen seeded streams: their replica is killed in the middle; what was read there, joined to what the other one
    gives, is the text of the same request undisturbed, with every number once."""
    one, two = await start(), await start()

    async def begun(seed: int) -> tuple[str, bytes]:
        """All that comes from the first replica; the first one to have 50 tokens kills it."""
        async with one.client.post("/stream", json={**ASKED, "seed": seed}, headers={"X-Resumable": "1"}) as response:
            stream = response.headers["X-Stream-Id"]
            raw = await read_until_cut(response, lambda raw: raw.count(b'"text"') > 50)
            one.kill()
            return stream, raw + await read_until_cut(response, lambda raw: False)

    cut = await asyncio.gather(*(begun(seed) for seed in range(N_STREAMS)))
    for seed, (stream, raw) in enumerate(cut):
        events = parse(raw)
        events += await resumed(two, events[-1])
        assert list(range(len(events))) == numbers(events, stream)
        assert events[-1].name == "done"
        assert text(await asked(two, seed)) == text(events)
    assert await metric(two, "llm_streams_adopted_total") == N_STREAMS
