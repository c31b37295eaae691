"""Replicas that share a log in a real Redis: whoever is asked has the stream, and whoever is left goes on with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Serve, Service
from tests.events import Event, parse, text
from tests.redis_server import RedisServer
from tests.replicas import kill, read, until

pytestmark = pytest.mark.e2e

PROMPT = {"prompt": "hi"}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES = [
    ("/stream", PROMPT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {**PROMPT, "stream": True, "stream_options": {"include_usage": True}}),
]


async def begun(service: Service, *texts: str, path: str = "/stream", body: dict[str, Any] = PROMPT) -> str:
    """A stream that has said these words, and nobody reads."""
    n = len(service.engine.submitted) + 1
    asking = asyncio.create_task(service.client.post(path, json=body, headers={"X-Resumable": "1"}))
    id = (await service.engine.submission(n)).id
    service.engine.accept(id)
    (await asking).close()
    service.engine.delta(id, *texts)
    return id


def is_durable(service: Service, id: str) -> bool:
    stream = service.rill.streams.find(id)
    return stream is not None and stream.durable and stream.n_visible == len(stream.log)


async def first_events(service: Service, id: str, n: int, **headers: str) -> list[Event]:
    """The first n events that a reader gets; then it leaves."""
    async with service.client.get(f"/v1/streams/{id}", headers=headers) as response:
        raw = b""
        while len(parse(raw)) < n:
            raw += await response.content.readany()
    return parse(raw)[:n]


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_any_replica_reads_a_finished_stream(
    serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]
) -> None:
    """From every event on, in the dialect that it was started with; then 204."""
    one, two = await serve(redis_url=redis.url), await serve(redis_url=redis.url)
    async with one.client.post(path, json=body, headers={"X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    for n, event in enumerate(events[:-1]):
        assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": event.id}) == (200, events[n + 1 :])
    assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    assert await read(two, f"/v1/streams/{id}") == (200, events)
    assert two.engine.submitted == []


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_any_replica_reads_it_live(serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]) -> None:
    """A reader that is sent elsewhere gets each event there as it is made."""
    one, two = await serve(redis_url=redis.url, by_hand=True), await serve(redis_url=redis.url)
    id = await begun(one, "a", path=path, body=body)
    async with two.client.get(f"/v1/streams/{id}") as response:
        raw = b""
        for word in ("b", "c", "d"):
            while word.join('""').encode() not in raw:
                one.engine.delta(id, word)
                raw += await response.content.readany()
                break
        one.engine.finish(id)
        raw += await response.read()
    assert (200, parse(raw)) == await read(one, f"/v1/streams/{id}")


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_dead_replicas_stream_goes_on(
    serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]
) -> None:
    """Another adopts it and continues behind the last logged token; its reader loses and repeats nothing."""
    one = await serve(redis_url=redis.url, by_hand=True)
    two = await serve(redis_url=redis.url, by_hand=True)
    id = await begun(one, "a", "b", path=path, body=body)
    await until(lambda: is_durable(one, id))
    (_, whole) = (None, await first_events(one, id, len(one.rill.streams.find(id).log)))  # type: ignore[union-attr]
    async with two.client.get(f"/v1/streams/{id}", headers={"Last-Event-ID": whole[-1].id}) as response:
        await kill(one)
        adopted = await two.engine.submission()
        assert (adopted.id, adopted.delivered) == (id, [7, 7])
        assert adopted.sampling.seed == one.engine.submitted[0].sampling.seed
        two.engine.accept(id)
        two.engine.delta(id, "c")
        two.engine.finish(id, n_generated=3)
        rest = parse(await response.read())
    assert await read(two, f"/v1/streams/{id}") == (200, whole + rest)
    if path == "/stream":
        assert text(whole + rest) == "abc"
    assert await two.metric("llm_streams_adopted_total") == 1
