"""Two real replicas with the starter and one Redis: the replica that generates is killed, and the text is the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiohttp
import pytest

from tests.events import Event, numbers, parse, text
from tests.patience import LIMITS
from tests.redis_server import RedisServer
from tests.running import Service, running

pytestmark = pytest.mark.e2e

N_STREAMS = 16
# None has ended when all have begun, however fast the engine is compared with its readers.
ASKED = {"prompt": "Tell me a story about a fox", "max_tokens": 800, "ignore_eos": True}


async def read_until_cut(response: aiohttp.ClientResponse, begun: asyncio.Event) -> bytes:
    """All bytes until the connection ends; `begun` is set when the first text has arrived."""
    raw = b""
    with suppress(aiohttp.ClientError):
        async for chunk in response.content.iter_any():
            raw += chunk
            if b'"text"' in raw:
                begun.set()
    return raw


async def resumed(replica: Service, last: Event) -> list[Event]:
    """The remaining events from this replica, as soon as it has adopted the stream."""
    async with replica.client.get("/stream", headers={"Last-Event-ID": last.id}) as response:
        return parse(await response.read())


async def test_the_text_survives_its_replica(redis: RedisServer) -> None:
    """Sixteen seeded streams: their replica is killed midway; what was read there and what the other replica sends,
    joined, is the text of the same request undisturbed, with every number once."""
    settings = {"redis_url": redis.url, "kv_type": "bf16", "n_threads": "1", **LIMITS}
    async with running(**settings) as one, running(**settings) as two:
        orders = [{**ASKED, "seed": seed} for seed in range(N_STREAMS)]
        responses = await asyncio.gather(
            *[one.client.post("/stream", json=order, headers={"X-Resumable": "1"}) for order in orders]
        )
        all_begun = [asyncio.Event() for _ in orders]
        reading = [asyncio.create_task(read_until_cut(*each)) for each in zip(responses, all_begun, strict=True)]
        for one_begun in all_begun:
            await one_begun.wait()
        one.process.kill()
        for seed, (response, raw) in enumerate(zip(responses, await asyncio.gather(*reading), strict=True)):
            events = parse(raw)
            events += await resumed(two, events[-1])
            assert list(range(len(events))) == numbers(events, response.headers["X-Stream-Id"])
            assert events[-1].name == "done" and events[-1].json()["finish_reason"] == "length"
            assert text(await two.whole(**ASKED, seed=seed)) == text(events)
        assert await two.metric("llm_streams_adopted_total") == N_STREAMS
