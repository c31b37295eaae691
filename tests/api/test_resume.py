"""Resuming: by event id on every route, by Idempotency-Key, and what a stream's receipt reports."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.conftest import Serve, Service, read
from tests.events import parse, text
from tests.fakes import CHAT, PROMPT, ROUTES, STORY, Clock, turns

COMING_BACK = [{"X-Resumable": "1"}, {"X-Resumable": "true"}, {"Idempotency-Key": "a-1"}, {"Idempotency-Key": '"a-1"'}]


async def begun(
    service: Service, path: str, body: dict[str, Any], **headers: str
) -> tuple[aiohttp.ClientResponse, str]:
    """A POST that has got one delta from the hand-driven engine, and its stream's id."""
    n = len(service.engine.submitted) + 1
    asking = asyncio.create_task(service.client.post(path, json=body, headers=headers))
    id = (await service.engine.submission(n)).id
    service.engine.accept(id)
    response = await asking
    service.engine.delta(id, "a")
    return response, id


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_every_dialect_resumes_after_any_event(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """After every event GET /v1/streams/{X-Stream-Id} returns the rest, in the dialect of the stream's start."""
    service = await serve()
    async with service.client.post(path, json=body, headers={"X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    for n, event in enumerate(events[:-1]):
        assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": event.id}) == (200, events[n + 1 :])
    assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    assert await read(service, f"/v1/streams/{id}") == (200, events)


@pytest.mark.parametrize("headers", COMING_BACK)
@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_resumable_post_outlives_its_client(
    serve: Serve, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """It runs on for the grace period without its client, and no longer."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, resume_grace_s=30)
    response, id = await begun(service, path, body, **headers)
    response.close()
    await turns(lambda: not service.rill.streams.n_readers)
    assert service.engine.cancelled == []
    clock.advance(31)
    service.rill.streams.tick()
    assert [id] == service.engine.cancelled


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_plain_post_ends_with_its_client(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """Without a way to resume it is cancelled when its client leaves."""
    service = await serve(by_hand=True)
    response, id = await begun(service, path, body)
    response.close()
    await turns(lambda: not service.rill.streams.n_readers)
    assert [id] == service.engine.cancelled


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_repeated_idempotency_key_generates_once(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """Repeating the request returns the same stream from its start; a different request with the key is a 409."""
    service = await serve()
    answers = []
    for _ in range(2):
        async with service.client.post(path, json=body, headers={"Idempotency-Key": "k"}) as response:
            answers.append((response.headers["X-Stream-Id"], await response.read()))
    assert answers[0] == answers[1]
    assert len(service.engine.submitted) == 1
    for changed in ({**body, "seed": 5}, {**body, "max_tokens": 5}):
        async with service.client.post(path, json=changed, headers={"Idempotency-Key": "k"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (409, "key_reused")


async def test_an_idempotency_key_covers_non_streamed_answers(serve: Serve) -> None:
    """A repeated POST without `stream` returns the identical body, also while the first is still being generated."""
    service = await serve()
    ask = [service.client.post("/v1/chat/completions", json=CHAT, headers={"Idempotency-Key": "k"}) for _ in range(3)]
    bodies = [await response.read() for response in await asyncio.gather(*ask)]
    async with service.client.post("/v1/chat/completions", json=CHAT, headers={"Idempotency-Key": "k"}) as response:
        bodies.append(await response.read())
        assert len(response.headers["X-Stream-Id"]) == 32
    assert len(set(bodies)) == 1
    assert len(service.engine.submitted) == 1
    streamed = {**CHAT, "stream": True}
    async with service.client.post("/v1/chat/completions", json=streamed, headers={"Idempotency-Key": "k"}) as response:
        assert response.status == 409, "requested in another form"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 129, "é", '""'])
async def test_a_bad_idempotency_key(serve: Serve, key: str) -> None:
    """It is refused by name, and nothing is generated."""
    service = await serve()
    for path, body in ROUTES:
        async with service.client.post(path, json=body, headers={"Idempotency-Key": key}) as response:
            error = (await response.json())["error"]
            assert (response.status, error["param"]) == (400, "Idempotency-Key")
    assert service.engine.submitted == []


async def test_an_expired_stream_is_gone(serve: Serve) -> None:
    """410 after its time to live, 404 for an id that never existed; an EventSource gets an event instead."""
    clock = Clock()
    service = await serve(clock=clock, stream_ttl_s=300)
    async with service.client.post("/stream", json=PROMPT) as response:
        id = response.headers["X-Stream-Id"]
        await response.read()
    clock.advance(301)
    service.rill.streams.tick()
    for path, status, code in ((id, 410, "stream_lost"), ("0" * 32, 404, "stream_not_found")):
        async with service.client.get(f"/v1/streams/{path}") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (status, code)
    status, (event,) = await read(service, f"/v1/streams/{id}", Accept="text/event-stream")
    assert (status, event.json()["error"]["code"]) == (200, "stream_lost")


async def receipt(service: Service, id: str) -> dict[str, Any]:
    async with service.client.get(f"/v1/streams/{id}", headers={"Accept": "application/json"}) as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_a_receipt(serve: Serve) -> None:
    """It has the state, finish reason and usage, and how many tokens were generated, delivered and wasted."""
    service = await serve(by_hand=True, resume_grace_s=30)
    response, id = await begun(service, "/stream", PROMPT, **{"X-Resumable": "1"})
    assert (await receipt(service, id))["state"] == "answering"
    got = b""
    while b'"a"' not in got:
        got += await response.content.readany()
    response.close()
    await turns(lambda: not service.rill.streams.n_readers)
    service.engine.delta(id, "b", "c")
    assert (await receipt(service, id))["tokens"] == {"generated": 3, "delivered": 1, "wasted": 0}
    service.engine.finish(id, n_generated=3)
    assert await receipt(service, id) == {
        "id": id,
        "state": "finished",
        "finish_reason": "stop",
        "error": None,
        "durable": False,
        "exact": False,
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
        "tokens": {"generated": 3, "delivered": 1, "wasted": 2},
    }
    await read(service, f"/v1/streams/{id}")
    assert (await receipt(service, id))["tokens"] == {"generated": 3, "delivered": 3, "wasted": 0}


async def test_a_receipt_of_a_failure(serve: Serve) -> None:
    """It has the error that its readers got."""
    service = await serve(by_hand=True)
    response, id = await begun(service, "/stream", PROMPT)
    service.engine.die(stays_down=True)
    await response.read()
    found = await receipt(service, id)
    assert (found["state"], found["finish_reason"], found["error"]["code"]) == ("failed", None, "engine_crash")


@pytest.mark.parametrize("need_key", [False, True])
async def test_which_key_may_read(serve: Serve, need_key: bool) -> None:
    """Another tenant's key is refused; a missing key is refused only with streams_need_key."""
    service = await serve(api_keys="one,two", streams_need_key=need_key)
    mine, other = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    async with service.client.post("/stream", json=PROMPT, headers={**mine, "X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    assert text(events) == "".join(STORY)
    paths = [(f"/v1/streams/{id}", {}), (f"/v1/streams/{id}", {"Accept": "application/json"})]
    paths += [(path, {"Last-Event-ID": events[2].id}) for path in (f"/v1/streams/{id}", "/stream")]
    for path, headers in paths:
        for key, status in (
            (mine, 200),
            (other, 403),
            ({"Authorization": "Bearer x"}, 401),
            ({}, 401 if need_key else 200),
        ):
            async with service.client.get(path, headers={**headers, **key}) as response:
                assert response.status == status, (path, headers, key)


async def test_several_readers_and_a_late_one(serve: Serve) -> None:
    """All get the same bytes; a late reader gets the whole log at once."""
    service = await serve(by_hand=True)
    first, id = await begun(service, "/stream", PROMPT)
    second = await service.client.get(f"/v1/streams/{id}")
    service.engine.delta(id, *["word"] * 50)
    service.engine.finish(id)
    late = await service.client.get(f"/v1/streams/{id}")
    assert len({await response.read() for response in (first, second, late)}) == 1


@pytest.mark.parametrize("headers", [{"X-Resumable": "1"}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_post_with_a_last_event_id_resumes(
    serve: Serve, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """It resumes as a GET does, whatever its body says, and generates nothing: libraries that stream by POST reconnect
    this way."""
    service = await serve()
    async with service.client.post(path, json=body, headers=headers) as response:
        events = parse(await response.read())
    for n, event in enumerate(events):
        again = {**headers, "Last-Event-ID": event.id}
        async with service.client.post(path, json=body, headers=again) as response:
            assert (response.status, parse(await response.read())) == (
                (200, events[n + 1 :]) if n + 1 < len(events) else (204, [])
            )
    lost = {"Last-Event-ID": "0" * 32 + ".5.00000000"}
    async with service.client.post(path, json=body, headers=lost) as response:
        (event,) = parse(await response.read())
    assert event.json()["error"]["code"] == "stream_lost"
    async with service.client.post(path, json=body, headers={"Last-Event-ID": event.id}) as response:
        assert response.status == 204
    assert len(service.engine.submitted) == 1


async def test_a_post_that_resumes_keeps_its_pace(serve: Serve) -> None:
    """It repeats the same request; a GET gives its own pace."""
    service = await serve(by_hand=True)
    body = {**PROMPT, "pace": 0.01}
    first, id = await begun(service, "/stream", body)
    service.engine.delta(id, *["word"] * 5)
    service.engine.finish(id)
    whole = parse(await (await service.client.get(f"/v1/streams/{id}")).read())
    last = next(event.id for event in whole if event.name == "message")
    stream = service.rill.streams.find(id)
    assert stream is not None
    again = await service.client.post("/stream", json=body, headers={"Last-Event-ID": last})
    assert len(stream.log.readers) == 2, "both are still paced"
    again.close()
    first.close()


async def test_create_with_a_last_event_id_resumes(serve: Serve) -> None:
    """A client that has events of a stream does not want another one."""
    service = await serve()
    async with service.client.post("/stream", json=PROMPT, headers={"X-Resumable": "1"}) as response:
        events = parse(await response.read())
    async with service.client.post("/v1/streams", json=PROMPT, headers={"Last-Event-ID": events[0].id}) as response:
        assert (response.status, parse(await response.read())) == (200, events[1:])
    assert len(service.engine.submitted) == 1


async def test_a_non_streamed_answer_has_no_events(serve: Serve) -> None:
    """It is answered 204, which stops an EventSource: after an empty 200 it would reconnect for ever."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json=CHAT, headers={"X-Resumable": "1"}) as response:
        id = response.headers["X-Stream-Id"]
    assert await read(service, f"/v1/streams/{id}", Accept="text/event-stream") == (204, [])


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_key_is_released_when_nothing_was_generated(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """A request that timed out in the queue is told to retry, and can then run under the same key."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, queue_timeout_s=5)
    key = {"Idempotency-Key": "k"}
    asking = asyncio.create_task(service.client.post(path, json=body, headers=key))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    async with await asking as response:
        clock.advance(5)
        service.rill.streams.tick()
        assert b"queue_timeout" in await response.read()
    asking = asyncio.create_task(service.client.post(path, json=body, headers=key))
    again = (await service.engine.submission(2)).id
    assert again != id
    service.engine.accept(again)
    service.engine.delta(again, "a")
    service.engine.finish(again)
    async with await asking as response:
        assert b"queue_timeout" not in await response.read()


async def test_a_key_is_released_by_a_refusal(serve: Serve) -> None:
    """After 429 nothing was generated for it."""
    service = await serve(by_hand=True, n_seq=1, max_waiting=0)
    first, id = await begun(service, "/stream", PROMPT)
    key = {"Idempotency-Key": "k"}
    async with service.client.post("/stream", json=PROMPT, headers=key) as response:
        assert response.status == 429
    service.engine.finish(id)
    await first.read()
    second, id = await begun(service, "/stream", {**PROMPT, "seed": 5}, **key)
    service.engine.finish(id)
    await second.read()


async def test_a_key_of_a_stream_with_output_is_kept(serve: Serve) -> None:
    """Its failure is the answer: sent text can't be taken back."""
    service = await serve(by_hand=True)
    response, _ = await begun(service, "/stream", PROMPT, **{"Idempotency-Key": "k"})
    service.engine.die(stays_down=True)
    first = await response.read()
    service.engine.load()
    async with service.client.post("/stream", json=PROMPT, headers={"Idempotency-Key": "k"}) as response:
        assert (await response.read()).endswith(first[-200:])
    assert len(service.engine.submitted) == 1
