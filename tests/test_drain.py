"""SIGTERM under 64 streams of the real engine: what each reader receives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest

from tests.events import Event, numbers, parse, text
from tests.patience import LIMITS, PATIENCE_S
from tests.redis_server import RedisServer
from tests.running import Service, running, stall

N_STREAMS = 64
DRAIN_S = 5.0  # the short streams end within it on a busy machine, the long ones don't on a fast one
STORY = "Tell me a story about a fox"
EXACT = {"kv_type": "bf16", "n_seq": str(N_STREAMS), "n_ctx": "65536", "n_threads": "1"}


Launch = Callable[..., Awaitable[Service]]


@pytest.fixture
async def launch() -> AsyncIterator[Launch]:
    """`await launch(setting=…)`: `python -m service` with the starter, ready."""
    async with AsyncExitStack() as stack:

        async def one(**settings: str) -> Service:
            return await stack.enter_async_context(running(**{"drain_s": str(DRAIN_S), **EXACT, **LIMITS, **settings}))

        yield one


async def term(service: Service) -> None:
    """Sends SIGTERM, and waits until it takes effect."""
    service.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        while (await service.client.get("/readyz")).status != 503:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0)


async def ended(service: Service) -> int:
    """The exit status of a service that ends by itself. Anything that it waits for past its grace period outlasts the
    test."""
    async with asyncio.timeout(PATIENCE_S):
        return await service.process.wait()


def order(n: int, max_tokens: int) -> dict[str, Any]:
    """Each is a different request, every second one greedy; one in four is short."""
    return {
        "prompt": f"{STORY} {n}",
        "seed": n,
        "temperature": 0.8 * (n % 2),
        "max_tokens": 5 if n % 4 == 0 else max_tokens,
        "ignore_eos": True,
    }


async def test_without_a_store_each_unfinished_stream_fails(launch: Launch) -> None:
    """Readiness ends at once, new requests are refused with Retry-After; short streams end with done, all others with
    one shutting_down as their last event; no connection is cut, and the exit status is 0 within the grace period."""
    service = await launch(speculation="off")  # with it a repetitive story would end within the grace period
    responses = []
    for n in range(N_STREAMS):
        path, body = "/stream", order(n, 900)
        if n >= N_STREAMS // 2:
            path, body = (
                "/v1/chat/completions",
                body | {"messages": [{"role": "user", "content": STORY}], "stream": True},
            )
        responses.append(await service.client.post(path, json=body))
    await term(service)
    async with service.client.post("/stream", json=order(0, 5)) as refused:
        assert (refused.status, (await refused.json())["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["Retry-After"]) > 0
    raws = await asyncio.gather(*[response.read() for response in responses])  # raises where a connection is cut
    assert await ended(service) == 0
    for n, raw in enumerate(raws):
        if n < N_STREAMS // 2:
            events = parse(raw)
            assert [e.name for e in events if e.name in ("done", "failure")] == ["done" if n % 4 == 0 else "failure"]
            assert n % 4 == 0 or events[-1].json()["error"]["code"] == "shutting_down"
        elif n % 4 == 0:
            assert raw.endswith(b"data: [DONE]\n\n") and b'"error"' not in raw
        else:
            assert parse(raw)[-1].json()["error"]["code"] == "shutting_down"
            assert b"[DONE]" not in raw and raw.count(b'"error"') == 1


async def test_stalled_readers_do_not_delay_the_exit(launch: Launch) -> None:
    """A reader that reads nothing of a log that fills all buffers is not waited for beyond the grace period: exit
    status 0."""
    service = await launch(write_timeout_s="600")
    body = {"messages": [{"role": "user", "content": STORY}], "stream": True, "ignore_eos": True, "max_tokens": 900}
    headers = {"X-Resumable": "1"}
    async with service.client.post("/v1/chat/completions", json=body, headers=headers) as response:
        id = response.headers["X-Stream-Id"]
        await response.read()
    stalled = await stall(service, [id], 8)
    await term(service)
    assert await ended(service) == 0
    for sock in stalled:
        sock.close()


@pytest.mark.e2e
async def test_with_a_store_nothing_is_lost(launch: Launch, redis: RedisServer) -> None:
    """Two replicas with one Redis: 64 streams continue at the other replica, with every number once and the text of the
    same request undisturbed; the first replica exits with 0 within the grace period."""
    one, two = [await launch(redis_url=redis.url, drain_s="0.5") for _ in range(2)]
    headers = {"X-Resumable": "1"}
    responses = [await one.client.post("/stream", json=order(n, 200), headers=headers) for n in range(N_STREAMS)]

    async def whole(response: aiohttp.ClientResponse) -> tuple[list[int], list[Event]]:
        """From the first replica as far as it gets, the rest from the second."""
        id, raw = response.headers["X-Stream-Id"], b""
        with suppress(aiohttp.ClientError):
            async for chunk in response.content.iter_any():
                raw += chunk
        events = parse(raw)
        while events[-1].name not in ("done", "failure"):
            last = {"Last-Event-ID": events[-1].id}
            async with two.client.get("/stream", headers=last) as resumed:
                events += parse(await resumed.read())
        return numbers(events, id), events

    await term(one)
    streams = asyncio.gather(*map(whole, responses))
    assert await ended(one) == 0

    async def alone(n: int) -> str:
        async with two.client.post("/stream", json=order(n, 200)) as response:
            return text(parse(await response.read()))

    read = await streams
    assert await two.metric("llm_streams_adopted_total") > 0
    expected = await asyncio.gather(*map(alone, range(N_STREAMS)))
    for (got, events), whole_text in zip(read, expected, strict=True):
        assert got == list(range(len(events)))
        assert events[-1].name == "done"
        assert text(events) == whole_text
