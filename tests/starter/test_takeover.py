"""Two real replicas with the starter and one Redis: the one that generates is killed, and the text is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import aiohttp
import pytest

from tests.events import Event, numbers, parse, text
from tests.redis_server import RedisServer
from tests.running import Service, running

pytestmark = pytest.mark.e2e

N_STREAMS = 16
ASKED = {"prompt": "Tell me a story about a fox", "max_tokens": 400, "ignore_eos": True}


async def read_until_cut(response: aiohttp.ClientResponse, enough: Callable[[bytes], bool]) -> bytes:
    """What comes until `enough` says so, or the connection ends."""
    raw = b""
    with suppress(aiohttp.ClientError):
        async for chunk in response.content.iter_any():
            raw += chunk
            if enough(raw):
                break
    return raw


async def resumed(replica: Service, last: Event) -> list[Event]:
    """What follows: from this replica, as soon as it knows the stream."""
    async with replica.client.get("/stream", headers={"Last-Event-ID": last.id}) as response:
        return parse(await response.read())


async def test_the_text_survives_its_replica(redis: RedisServer) -> None:
    """Sixteen seeded streams: their replica is killed in the middle; what was read there, joined to what the other one
    gives, is the text of the same request undisturbed, with every number once."""
    settings = {"redis_url": redis.url, "kv_type": "bf16", "n_threads": "1"}
    async with running(**settings) as one, running(**settings) as two:

        async def begun(seed: int) -> tuple[str, bytes]:
            """All that comes from the first replica; the first one to have 50 tokens kills it."""
            order = {**ASKED, "seed": seed}
            async with one.client.post("/stream", json=order, headers={"X-Resumable": "1"}) as response:
                stream = response.headers["X-Stream-Id"]
                raw = await read_until_cut(response, lambda raw: raw.count(b'"text"') > 50)
                with suppress(ProcessLookupError):
                    one.process.kill()
                return stream, raw + await read_until_cut(response, lambda raw: False)

        cut = await asyncio.gather(*(begun(seed) for seed in range(N_STREAMS)))
        for seed, (stream, raw) in enumerate(cut):
            events = parse(raw)
            events += await resumed(two, events[-1])
            assert list(range(len(events))) == numbers(events, stream)
            assert events[-1].name == "done"
            assert text(await two.whole(**ASKED, seed=seed)) == text(events)
        assert await two.metric("llm_streams_adopted_total") == N_STREAMS
