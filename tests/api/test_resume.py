"""Coming back: by event id on every route, by Idempotency-Key, and what a stream's receipt says."""

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
    """A POST whose stream has said one word, played by hand."""
    n = len(service.engine.submitted) + 1
    asking = asyncio.create_task(service.client.post(path, json=body, headers=headers))
    id = (await service.engine.submission(n)).id
    service.engine.accept(id)
    response = await asking
    service.engine.delta(id, "a")
    return response, id


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_every_dialect_goes_on_where_it_was_cut(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """From every event on, GET /v1/streams/{X-Stream-Id} gives the rest, in the dialect that it was started with."""
    service = await serve()
    async with service.client.post(path, json=body, headers={"X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    for n, event in enumerate(events[:-1]):
        assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": event.id}) == (200, events[n + 1 :])
    assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    assert await read(service, f"/v1/streams/{id}") == (200, events)


@pytest.mark.parametrize("headers", COMING_BACK)
@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_post_that_may_come_back(
    serve: Serve, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """It outlives its client by the grace, and no longer."""
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
async def test_a_plain_post_does_not(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """Nobody will come back: it is cancelled as its client leaves."""
    service = await serve(by_hand=True)
    response, id = await begun(service, path, body)
    response.close()
    await turns(lambda: not service.rill.streams.n_readers)
    assert [id] == service.engine.cancelled


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_repeated_idempotency_key_generates_once(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """The same request again is the same stream from its start; another one is a 409."""
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


async def test_an_answer_in_one_piece_is_kept_too(serve: Serve) -> None:
    """A repeated POST without `stream` gives the very same body, also while the first is still being made."""
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
        assert response.status == 409, "asked for in another form"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 129, "é", '""'])
async def test_a_bad_idempotency_key(serve: Serve, key: str) -> None:
    """Refused by name, and nothing is generated."""
    service = await serve()
    for path, body in ROUTES:
        async with service.client.post(path, json=body, headers={"Idempotency-Key": key}) as response:
            error = (await response.json())["error"]
            assert (response.status, error["param"]) == (400, "Idempotency-Key")
    assert service.engine.submitted == []


async def test_an_expired_stream_is_gone(serve: Serve) -> None:
    """410 once its time to live is over, 404 for what never was; an EventSource is told by an event instead."""
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
    """State, finish reason, usage, and how many tokens were made, sent to somebody, and made for nobody."""
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
    """The error that its readers got."""
    service = await serve(by_hand=True)
    response, id = await begun(service, "/stream", PROMPT)
    service.engine.die(stays_down=True)
    await response.read()
    found = await receipt(service, id)
    assert (found["state"], found["finish_reason"], found["error"]["code"]) == ("failed", None, "engine_crash")


@pytest.mark.parametrize("need_key", [False, True])
async def test_whose_key_reads(serve: Serve, need_key: bool) -> None:
    """Another's key is refused; none at all only with streams_need_key."""
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
    """All get the same bytes; who comes late gets the whole log at once."""
    service = await serve(by_hand=True)
    first, id = await begun(service, "/stream", PROMPT)
    second = await service.client.get(f"/v1/streams/{id}")
    service.engine.delta(id, *["word"] * 50)
    service.engine.finish(id)
    late = await service.client.get(f"/v1/streams/{id}")
    assert len({await response.read() for response in (first, second, late)}) == 1


@pytest.mark.parametrize("headers", [{"X-Resumable": "1"}, {"Idempotency-Key": "k"}])
@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_post_with_a_last_event_id_goes_on(
    serve: Serve, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    """As a GET does, whatever its body says: libraries that stream by POST come back with it, and nothing is generated
    twice."""
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


async def test_a_post_that_comes_back_keeps_its_pace(serve: Serve) -> None:
    """It is the same request again; a GET names its own."""
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
    assert len(stream.log.readers) == 2, "both are at their reading speed yet"
    again.close()
    first.close()


async def test_a_post_that_starts_goes_on_with_a_last_event_id_too(serve: Serve) -> None:
    """Whoever has events of a stream wants no other one."""
    service = await serve()
    async with service.client.post("/stream", json=PROMPT, headers={"X-Resumable": "1"}) as response:
        events = parse(await response.read())
    async with service.client.post("/v1/streams", json=PROMPT, headers={"Last-Event-ID": events[0].id}) as response:
        assert (response.status, parse(await response.read())) == (200, events[1:])
    assert len(service.engine.submitted) == 1


async def test_an_answer_in_one_piece_has_no_events(serve: Serve) -> None:
    """204, which makes an EventSource stop: an empty 200 would have it come back for ever."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json=CHAT, headers={"X-Resumable": "1"}) as response:
        id = response.headers["X-Stream-Id"]
    assert await read(service, f"/v1/streams/{id}", Accept="text/event-stream") == (204, [])


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_key_is_free_where_nothing_ran(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """Who waited in vain is told to come back, and is then tried again with the same key."""
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


async def test_a_key_that_was_refused_is_free(serve: Serve) -> None:
    """429: nothing was made of it."""
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


async def test_a_key_of_a_stream_that_said_something_is_kept(serve: Serve) -> None:
    """Its failure is the answer: what was said can't be taken back."""
    service = await serve(by_hand=True)
    response, _ = await begun(service, "/stream", PROMPT, **{"Idempotency-Key": "k"})
    service.engine.die(stays_down=True)
    first = await response.read()
    service.engine.load()
    async with service.client.post("/stream", json=PROMPT, headers={"Idempotency-Key": "k"}) as response:
        assert (await response.read()).endswith(first[-200:])
    assert len(service.engine.submitted) == 1
