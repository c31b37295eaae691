"""The whole service, front and engine, is stopped under its streams and restarted on the same file."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.events import Event, numbers, parse, text
from tests.patience import LIMITS, PATIENCE_S
from tests.running import Service, orders, running
from tests.test_main import runs

N_STREAMS = 16
MAX_TOKENS = 800  # none has ended when all have begun, however fast the engine is compared with its readers
ORDERS = orders(N_STREAMS, salt=7, max_tokens=MAX_TOKENS)
KEY = {"Idempotency-Key": "k"}


async def read_until_cut(response: aiohttp.ClientResponse, begun: asyncio.Event) -> bytes:
    """All bytes until the connection ends; `begun` is set when the first text has arrived."""
    raw = b""
    with suppress(aiohttp.ClientError):
        async for chunk in response.content.iter_any():
            raw += chunk
            if b'"text"' in raw:
                begun.set()
    return raw


async def rest_of(service: Service, last: Event) -> list[Event]:
    """The remaining events, for a reader that reconnects."""
    async with service.client.get("/stream", headers={"Last-Event-ID": last.id}) as response:
        return parse(await response.read())


async def kept(service: Service) -> tuple[str, bytes]:
    """The id and all events of the stream with this key."""
    async with service.client.post("/stream", json=ORDERS[0] | {"max_tokens": 20}, headers=KEY) as response:
        return response.headers["X-Stream-Id"], await response.read()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
async def test_the_text_survives_the_service(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Sixteen streams, greedy and seeded, killed or drained midway: what was read before and after the restart joined
    is the text of an undisturbed run, with every number once. A finished stream can still be read by its key."""
    settings = {"kv_type": "bf16", "store_path": str(tmp_path / "streams.db"), "drain_s": "0", **LIMITS}
    async with running(**settings) as one:
        finished = await kept(one)
        undisturbed = await asyncio.gather(*[one.whole(**order) for order in ORDERS])
        resumable = {"X-Resumable": "1"}
        responses = await asyncio.gather(
            *[one.client.post("/stream", json=order, headers=resumable) for order in ORDERS]
        )
        all_begun = [asyncio.Event() for _ in ORDERS]
        reading = [asyncio.create_task(read_until_cut(*each)) for each in zip(responses, all_begun, strict=True)]
        for one_begun in all_begun:
            await one_begun.wait()
        engine = one.engine_pid()
        assert await one.end(number) == status
        cut = [parse(await task) for task in reading]
        async with asyncio.timeout(PATIENCE_S):
            while runs(engine):  # noqa: ASYNC110  # it is orphaned now
                await asyncio.sleep(0.02)
    assert {events[-1].name for events in cut} == {"message"}
    async with running(**settings) as two:
        rests = await asyncio.gather(*[rest_of(two, events[-1]) for events in cut])
        for begun, rest, response, whole in zip(cut, rests, responses, undisturbed, strict=True):
            events = begun + rest
            assert (events[-1].name, text(events)) == ("done", text(whole))
            assert numbers(events, response.headers["X-Stream-Id"]) == list(range(len(events)))
        assert await two.metric("llm_streams_adopted_total") == N_STREAMS
        assert await kept(two) == finished
