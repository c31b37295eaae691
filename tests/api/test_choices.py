"""Several choices: n answers, several prompts; one response, one id to resume, cancel and ask for."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

from service.protocol.frames import Rejected
from service.streams.choices import MAX_CHOICES, MAX_N, Combined
from tests.conftest import Serve, Service, read
from tests.events import Event, parse
from tests.fakes import STORY
from tests.redis_server import RedisServer
from tests.replicas import kill, until

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "n": 2, "stream": True}
RESUMABLE = {"X-Resumable": "1"}


def texts(events: list[Event]) -> dict[int, str]:
    """By the choices' indices."""
    found: dict[int, str] = {}
    for event in events:
        for choice in [] if event.data == "[DONE]" else event.json()["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
            found[choice["index"]] = found.get(choice["index"], "") + text
    return found


def reasons(events: list[Event]) -> dict[int, str]:
    """By index, and each given once."""
    ended = [c for e in events if e.data != "[DONE]" for c in e.json()["choices"] if c["finish_reason"]]
    assert len({c["index"] for c in ended}) == len(ended)
    return {choice["index"]: choice["finish_reason"] for choice in ended}


async def streamed(service: Service, body: dict[str, Any], **headers: str) -> tuple[str, list[Event]]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with service.client.post(path, json=body, headers=RESUMABLE | headers) as response:
        assert response.status == 200, await response.text()
        return response.headers["X-Stream-Id"], parse(await response.read())


async def accepted(service: Service) -> aiohttp.ClientResponse:
    """The response to CHAT, whose prompts a hand-driven engine has accepted."""
    asking = asyncio.create_task(service.client.post("/v1/chat/completions", json=CHAT, headers=RESUMABLE).__aenter__())
    for n in (1, 2):
        service.engine.accept((await service.engine.submission(n)).id)
    return await asking


async def test_n_answers_in_one_stream(serve: Serve) -> None:
    """Each chunk has its choice's index, all have one id; each choice ends once, and [DONE] comes once, at the end."""
    service = await serve()
    _, events = await streamed(service, CHAT | {"n": 3})
    assert texts(events) == dict.fromkeys(range(3), "".join(STORY))
    assert reasons(events) == dict.fromkeys(range(3), "stop")
    assert [event.data for event in events].count("[DONE]") == 1 and events[-1].data == "[DONE]"
    assert len({event.json()["id"] for event in events[:-1]}) == 1
    assert len({submit.id for submit in service.engine.submitted}) == 3


async def test_seeds(serve: Serve) -> None:
    """A seed is the first choice's, and each further one has one more; without one each has its own."""
    service = await serve()
    await streamed(service, CHAT | {"n": 3, "seed": 5})
    await streamed(service, CHAT | {"n": 3})
    seeds = [submit.sampling.seed for submit in service.engine.submitted]
    assert seeds[:3] == [5, 6, 7] and len(set(seeds[3:])) == 3


async def test_several_prompts(serve: Serve) -> None:
    """The answers are in the prompts' order, n to each."""
    service = await serve()
    body = {"prompt": ["a", "b"], "n": 2, "seed": 1}
    async with service.client.post("/v1/completions", json=body) as response:
        whole = await response.json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert {choice["text"] for choice in whole["choices"]} == {"".join(STORY)}
    assert [choice["seed"] for choice in whole["choices"]] == [1, 2, 1, 2]
    assert [submit.text for submit in service.engine.submitted] == ["a", "a", "b", "b"]
    async with service.client.post("/v1/completions", json={"prompt": [[1, 2], [3]], "n_cmpl": 1}) as response:
        assert len((await response.json())["choices"]) == 2
    assert [submit.tokens for submit in service.engine.submitted[4:]] == [[1, 2], [3]]


async def test_usage_counts_each_prompt_once(serve: Serve) -> None:
    """And all generated tokens; streamed it is the chunk before [DONE]."""
    service = await serve()
    expected = {
        "prompt_tokens": 6,
        "completion_tokens": 4 * len(STORY),
        "total_tokens": 6 + 4 * len(STORY),
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    body = {"prompt": ["a", "b"], "n": 2}
    async with service.client.post("/v1/completions", json=body) as response:
        assert (await response.json())["usage"] == expected
    _, events = await streamed(service, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert (events[-2].json()["choices"], events[-2].json()["usage"]) == ([], expected)


async def test_it_is_resumed_after_any_event(serve: Serve) -> None:
    """What follows the event is what follows in each choice; after the last one 204. On every route."""
    service = await serve()
    id, events = await streamed(service, CHAT | {"stream_options": {"include_usage": True}})
    for n, event in enumerate(events[:-1]):
        status, rest = await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": event.id})
        before, after = texts(events[: n + 1]), texts(rest)
        assert status == 200 and {k: before.get(k, "") + after.get(k, "") for k in (0, 1)} == texts(events)
        assert len(rest) == len(events) - n - 1 and rest[-1].data == "[DONE]" and rest[-1].id == events[-1].id
    assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    async with service.client.post("/v1/chat/completions", headers={"Last-Event-ID": events[0].id}) as response:
        assert len(parse(await response.read())) == len(events) - 1
    status, again = await read(service, f"/v1/streams/{id}")
    assert (status, texts(again), len(again)) == (200, texts(events), len(events))
    assert len(service.engine.submitted) == 2


async def test_an_unknown_place_is_a_lost_stream(serve: Serve) -> None:
    """Wrong checksums, other lengths, more choices than there may be: none is an error of ours."""
    service = await serve()
    id, events = await streamed(service, CHAT)
    first = Combined.parse(id)
    assert first is not None
    for last in (
        events[-1].id.replace(":", ":f0f0f0f0"[:1] + "f"),
        f"{id}.-",
        f"{id}.9:00000000,-",
        f"{first.first}-1x17.{','.join('-' * 17)}",
        f"{'0' * 32}-1x2.-,-",
    ):
        _, rest = await read(service, "/stream", **{"Last-Event-ID": last})
        assert [event.name for event in rest] == ["failure"], last


async def test_receipt_and_cancel(serve: Serve) -> None:
    """The id of all names all: a receipt for each choice, and a cancel that ends each one."""
    service = await serve(by_hand=True)
    async with await accepted(service) as response:
        id = response.headers["X-Stream-Id"]
        async with service.client.get(f"/v1/streams/{id}", headers={"Accept": "application/json"}) as answer:
            told = await answer.json()
        assert told["id"] == id and [one["state"] for one in told["choices"]] == ["thinking", "thinking"]
        async with service.client.delete(f"/v1/streams/{id}") as answer:
            assert answer.status == 204
        events = parse(await response.read())
    assert reasons(events) == {0: "stop", 1: "stop"}
    assert service.engine.cancelled == [submit.id for submit in service.engine.submitted]


async def test_one_failure_ends_all(serve: Serve) -> None:
    """It is sent, nothing follows it, and the others are cancelled; a refused prompt is the whole request's 400."""
    service = await serve(by_hand=True)
    response = await accepted(service)
    one, two = (submit.id for submit in service.engine.submitted)
    service.engine.delta(one, "a")
    service.engine.say(Rejected(two, "invalid_request", "bad", "grammar"))
    events = parse(await response.read())
    assert "error" in events[-1].json() and "[DONE]" not in [event.data for event in events]
    assert one in service.engine.cancelled
    assert await read(service, "/stream", **{"Last-Event-ID": events[-1].id}) == (204, [])
    for stream in (True, False):
        n = len(service.engine.submitted)
        body = {"prompt": ["a", "b"], "stream": stream}
        asking = asyncio.create_task(service.client.post("/v1/completions", json=body).__aenter__())
        last = await service.engine.submission(n + 2)
        service.engine.say(Rejected(last.id, "context_length_exceeded", "too long"))
        if stream:
            service.engine.accept(service.engine.submitted[n].id)
        response = await asking
        assert response.status == 400, await response.text()
        await until(lambda n=n: service.engine.submitted[n].id in service.engine.cancelled)  # type: ignore[misc]


async def test_a_client_that_leaves_ends_all(serve: Serve) -> None:
    """Unless it may resume."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(service.client.post("/v1/chat/completions", json=CHAT).__aenter__())
    await service.engine.submission(2)
    asking.cancel()
    await until(lambda: len(service.engine.cancelled) == 2)


async def test_all_or_none_are_admitted(serve: Serve) -> None:
    """Where there is no place for all, none has taken one."""
    service = await serve(n_seq=2, max_waiting=0)
    async with service.client.post("/v1/chat/completions", json=CHAT | {"n": 3}) as response:
        assert response.status == 429
    assert service.engine.submitted == []
    assert (await streamed(service, CHAT))[1][-1].data == "[DONE]"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": MAX_N + 1}, "n"),
        ({"n": 1.5}, "n"),
        ({"n_cmpl": MAX_N + 1}, "n_cmpl"),
        ({"n": 2, "best_of": 4}, "best_of"),
        ({"n": MAX_N, "prompt": ["a"] * (MAX_CHOICES // MAX_N + 1)}, "n"),
        ({"prompt": ["a"] * (MAX_CHOICES + 1)}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a", [1, -1]]}, "prompt"),
    ],
)
async def test_bad_numbers(serve: Serve, body: dict[str, Any], param: str) -> None:
    """A 400 that names the field, and nothing runs."""
    service = await serve()
    async with service.client.post("/v1/completions", json={"prompt": "a"} | body) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, param)
    assert service.engine.submitted == []


async def test_streams_route_has_one_answer(serve: Serve) -> None:
    """/stream refuses n by name."""
    service = await serve()
    async with service.client.post("/stream", json={"prompt": "a", "n": 2}) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "n")


async def test_a_key_names_all(serve: Serve) -> None:
    """The same request again reads the same answers, streamed or not; another n with the key is a conflict."""
    service = await serve()
    key = {"Idempotency-Key": "k"}
    id, events = await streamed(service, CHAT, **key)
    again = await streamed(service, CHAT, **key)
    assert again[0] == id and texts(again[1]) == texts(events)
    assert len(service.engine.submitted) == 2
    async with service.client.post("/v1/chat/completions", json=CHAT | {"n": 3}, headers=key) as response:
        assert response.status == 409


async def test_the_engine_dies(serve: Serve) -> None:
    """Each choice continues after its own last token."""
    service = await serve(by_hand=True)
    response = await accepted(service)
    one, two = (submit.id for submit in service.engine.submitted)
    service.engine.delta(one, "a", "b")
    service.engine.delta(two, "x")
    service.engine.die()
    service.engine.load()
    again = [await service.engine.submission(n) for n in (3, 4)]
    assert {submit.id: submit.delivered for submit in again} == {one: [7, 7], two: [7]}
    for submit, rest in zip(again, ("c", "y"), strict=True):
        service.engine.accept(submit.id)
        service.engine.delta(submit.id, rest if submit.id == one else "y")
        service.engine.finish(submit.id)
    events = parse(await response.read())
    assert texts(events) == {0: "abc", 1: "xy"}


@pytest.mark.e2e
async def test_another_replica_continues_it(serve: Serve, redis: RedisServer) -> None:
    """A reader of a dead replica's choices goes to another one with the last event's id, and loses and repeats
    nothing."""
    settings: dict[str, Any] = {"redis_url": redis.url, "by_hand": True, "lease_s": 1.5}
    one, two = await serve(**settings), await serve(**settings)
    async with await accepted(one) as response:
        raw = b""
        a, b = (submit.id for submit in one.engine.submitted)
        one.engine.delta(a, "a")
        one.engine.delta(b, "x")
        while raw.count(b"content") < 4:
            raw += await response.content.readany()
        had = parse(raw)
        await kill(one)
    reading = asyncio.create_task(read(two, "/stream", **{"Last-Event-ID": had[-1].id}))
    for submit in [await two.engine.submission(n) for n in (1, 2)]:
        assert submit.delivered == [7]
        two.engine.accept(submit.id)
        two.engine.delta(submit.id, "b" if submit.id == a else "y")
        two.engine.finish(submit.id)
    status, rest = await reading
    assert status == 200 and texts(had + rest) == {0: "ab", 1: "xy"} and rest[-1].data == "[DONE]"


async def test_openai_python(serve: Serve) -> None:
    """Its chat with n, whole and streamed, and its completions with several prompts."""
    service = await serve()
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], n=2)
        assert [choice.message.content for choice in answer.choices] == ["".join(STORY)] * 2
        found = {0: "", 1: ""}
        async for chunk in await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], n=2, stream=True
        ):
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        assert found == {0: "".join(STORY), 1: "".join(STORY)}
        texts_ = await client.completions.create(model="m", prompt=["a", "b"])
        assert [choice.index for choice in texts_.choices] == [0, 1]
