from __future__ import annotations

import asyncio
from typing import Any

import openai
import orjson
import pytest

from service.protocol.constraints import Constraints
from service.protocol.frames import Rejected
from service.protocol.prompting import Prompting
from tests.conftest import Serve, Service
from tests.events import Event, numbers, parse
from tests.fakes import ROUTES, STORY, Clock, ready, turns

CHAT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}


async def streamed(service: Service, path: str, body: dict[str, Any]) -> list[Event]:
    resumable = {"X-Resumable": "1"}
    async with service.client.post(path, json={**body, "stream": True}, headers=resumable) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["X-Accel-Buffering"] == "no"
        events = parse(await response.read())
        assert numbers(events, response.headers["X-Stream-Id"]) == list(range(len(events)))
        return events


def chunks(events: list[Event]) -> list[dict[str, Any]]:
    """The JSON of all events but the last, which is [DONE]; no event has a name."""
    assert {event.name for event in events} == {"message"}
    assert events[-1].data == "[DONE]"
    return [event.json() for event in events[:-1]]


async def test_a_streamed_chat(serve: Serve) -> None:
    """First the role, then the text, then the finish reason with seed and timings, then [DONE], all under one id and
    model name."""
    service = await serve()
    got = chunks(await streamed(service, "/v1/chat/completions", {**CHAT, "seed": 5}))
    choices = [chunk["choices"][0] for chunk in got]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["delta"] for choice in choices[1:-1]] == [{"content": piece} for piece in STORY]
    assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "stop")
    assert {choice["finish_reason"] for choice in choices[:-1]} == {None}
    assert {(chunk["object"], chunk["model"]) for chunk in got} == {("chat.completion.chunk", "any")}
    assert len({chunk["id"] for chunk in got}) == 1 and got[0]["id"].startswith("chatcmpl-")
    assert got[-1]["seed"] == 5 and got[-1]["timings"]["decode_s"] == 1.0
    assert all("usage" not in chunk for chunk in got)


async def test_usage_comes_in_a_separate_chunk_on_request(serve: Serve) -> None:
    """With include_usage the last chunk has the usage and no choices; all others have usage null."""
    service = await serve()
    body = {**CHAT, "stream_options": {"include_usage": True}}
    got = chunks(await streamed(service, "/v1/chat/completions", body))
    assert got[-1]["choices"] == []
    assert got[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": len(STORY),
        "total_tokens": 3 + len(STORY),
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert {str(chunk["usage"]) for chunk in got[:-1]} == {"None"}


async def test_a_streamed_completion(serve: Serve) -> None:
    """The older route has the text in `text`."""
    service = await serve()
    got = chunks(await streamed(service, "/v1/completions", {"prompt": "Once"}))
    assert "".join(chunk["choices"][0]["text"] for chunk in got) == "".join(STORY)
    assert {chunk["object"] for chunk in got} == {"text_completion"}
    assert got[0]["model"] == "scripted"


async def test_a_non_streamed_answer(serve: Serve) -> None:
    """It is one object with usage, timings and the seed that was used."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json=CHAT) as response:
        body = await response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(STORY), "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["completion_tokens"] == len(STORY)
    assert body["seed"] == service.engine.submitted[0].sampling.seed
    async with service.client.post("/v1/completions", json={"prompt": "x"}) as response:
        body = await response.json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "".join(STORY))


async def test_what_reaches_the_engine(serve: Serve) -> None:
    """Messages are unchanged, but that developer becomes system and parts are joined; a raw prompt is text or token
    ids; all parameters arrive."""
    service = await serve()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": parts, "name": "Eve"},
        ],
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": -1,
        "min_p": 0.3,
        "repeat_penalty": 1.5,
        "repeat_last_n": 9,
        "presence_penalty": -1,
        "frequency_penalty": 1,
        "seed": 2**40 + 3,
        "stop": ["a", "b"],
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "ignore_eos": True,
    }
    async with service.client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
    chat = service.engine.submitted[0]
    assert chat.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "ab"}]
    s = chat.sampling
    assert (s.temperature, s.top_p, s.top_k, s.min_p) == (0.1, 0.2, 0, 0.3)
    assert (s.repeat_penalty, s.repeat_last_n, s.presence_penalty, s.frequency_penalty) == (1.5, 9, -1, 1)
    assert (s.seed, chat.stop, chat.max_tokens, chat.ignore_eos) == ((2**40 + 3) % (2**32 - 1), ["a", "b"], 6, True)
    for prompt in ("text", ["text"], [5, 6], [[5, 6]]):
        async with service.client.post("/v1/completions", json={"prompt": prompt}) as response:
            assert response.status == 200
    assert [(submit.text, submit.tokens) for submit in service.engine.submitted[1:]] == [
        ("text", None),
        ("text", None),
        (None, [5, 6]),
        (None, [5, 6]),
    ]


async def test_the_engine_knows_the_pace_of_a_stream(serve: Serve) -> None:
    """A non-streamed answer is generated at full speed, whatever pace was requested."""
    service = await serve()
    for stream in (True, False):
        for query, pace in ({}, 1e3), ({"pace": "2e3"}, 1e3), ({"pace": "2e3"}, None):
            body = {**CHAT, "stream": stream, "pace": pace}
            async with service.client.post("/v1/chat/completions", params=query, json=body) as response:
                assert response.status == 200
                await response.read()
    assert [submit.pace for submit in service.engine.submitted] == [1e3, 2e3, 2e3, None, None, None]


async def test_parameters_at_their_defaults_are_accepted(serve: Serve) -> None:
    """Clients send defaults, which are not refused; nor are unknown fields."""
    service = await serve()
    tool = {"type": "function", "function": {"name": "f"}}
    harmless = {"n": 1, "logit_bias": {}, "response_format": {"type": "text"}, "tools": [tool], "tool_choice": "none"}
    body = {**CHAT, **harmless, "user": "x", "fox": 7}
    async with service.client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": -1}, None),
        ({"n_predict": 3}, 3),
        ({"num_predict": 3}, 3),
        ({"n_predict": -1}, None),
        ({"max_tokens": 5, "n_predict": 3}, 5),
        ({"max_completion_tokens": 4, "max_tokens": 5}, 4),
        ({"max_tokens": -1, "n_predict": 3}, 3),
    ],
)
async def test_every_name_of_the_token_limit(serve: Serve, fields: dict[str, int], expected: int | None) -> None:
    """OpenAI's newer name takes precedence over its older one, and that over other servers' names; -1 means no
    limit."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json={**CHAT, **fields}) as response:
        assert response.status == 200
    assert service.engine.submitted[0].max_tokens == expected


async def test_stream_options_need_a_stream(serve: Serve) -> None:
    """Without a stream they get 400, as from OpenAI."""
    service = await serve()
    body = {**CHAT, "stream_options": {"include_usage": True}}
    async with service.client.post("/v1/chat/completions", json=body) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "stream_options")


async def test_the_engines_refusal_is_a_400(serve: Serve) -> None:
    """It is sent before any header, streamed or not."""
    service = await serve(by_hand=True)
    for n, stream in enumerate((True, False), start=1):
        asking = asyncio.create_task(service.client.post("/v1/chat/completions", json={**CHAT, "stream": stream}))
        id = (await service.engine.submission(n)).id
        service.engine.say(Rejected(id, "context_length_exceeded", "2000 tokens; 1024 fit"))
        async with await asking as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


async def test_an_error_after_the_headers_is_a_chunk_without_done(serve: Serve) -> None:
    """`data: {"error": …}` ends the stream: no [DONE] makes it look complete."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(service.client.post("/v1/chat/completions", json={**CHAT, "stream": True}))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    response = await asking
    service.engine.delta(id, "a")
    service.engine.die(stays_down=True)
    events = parse(await response.read())
    assert events[-1].json()["error"]["code"] == "engine_crash"
    assert "[DONE]" not in [event.data for event in events]


@pytest.mark.parametrize(("what", "code"), [("die", "engine_crash"), ("time", "queue_timeout")])
async def test_a_non_streamed_answer_that_fails_is_a_503(serve: Serve, what: str, code: str) -> None:
    """No header was sent yet, so the status reports the failure, with Retry-After."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, queue_timeout_s=60)
    asking = asyncio.create_task(service.client.post("/v1/chat/completions", json=CHAT))
    service.engine.accept((await service.engine.submission()).id)
    if what == "die":
        service.engine.die(stays_down=True)
    else:
        clock.advance(60)
    async with await asking as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, code)
        assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels(serve: Serve, stream: bool) -> None:
    """The sequence is freed at once, and the request is counted as client_left."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(service.client.post("/v1/chat/completions", json={**CHAT, "stream": stream}))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    if stream:
        (await asking).close()
    else:
        asking.cancel()
    await turns(lambda: service.engine.cancelled)
    assert service.engine.cancelled == [id]
    assert await service.metric('llm_requests_total{outcome="client_left",route="/v1/chat/completions"}') == 1


async def test_an_openai_stream_is_resumed_in_its_own_dialect(serve: Serve) -> None:
    """X-Stream-Id names the stream for GET /v1/streams/{id}; the events are the same chunks."""
    service = await serve()
    body, resumable = {**CHAT, "stream": True}, {"X-Resumable": "1"}
    async with service.client.post("/v1/chat/completions", json=body, headers=resumable) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    async with service.client.get(f"/v1/streams/{id}", headers={"Last-Event-ID": events[3].id}) as response:
        assert parse(await response.read()) == events[4:]


async def test_models_are_listed(serve: Serve) -> None:
    """The loaded model is listed with its known properties; any other is a 404."""
    service = await serve()
    async with service.client.get("/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("scripted", "model", "rill")
    assert model["meta"]["n_ctx"] == 4096 and isinstance(model["created"], int)
    async with service.client.get("/v1/models/scripted") as response:
        assert await response.json() == model
    async with service.client.get("/v1/models/another") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "model_not_found")


async def test_models_while_loading(serve: Serve) -> None:
    """While the model loads the route answers 503."""
    service = await serve(starts_ready=False)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
        async with service.client.request(method, path, json=CHAT) as response:
            assert response.status == 503


async def test_only_listed_model_names_are_accepted(serve: Serve) -> None:
    """With RILL_MODEL_NAMES any other name is a 404 model_not_found on all routes; a request without a name is
    accepted."""
    service = await serve(model_names="fox,org/owl")
    posts: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": CHAT["messages"]}),
        ("/v1/completions", {"prompt": "x"}),
        ("/stream", {"prompt": "x"}),
    ]
    for path, body in posts:
        for name, status in (("fox", 200), ("org/owl", 200), ("wolf", 404), (None, 200)):
            async with service.client.post(path, json={**body, "model": name}) as response:
                assert response.status == status
                if status == 404:
                    assert (await response.json())["error"]["code"] == "model_not_found"
    async with service.client.get("/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["fox", "org/owl"]
    async with service.client.get("/v1/models/org/owl") as response:
        assert response.status == 200


async def test_the_seed_is_reported(serve: Serve) -> None:
    """A request without a seed reports the one that was used, and the same seed is used again when it is sent."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json=CHAT) as response:
        seed = (await response.json())["seed"]
    async with service.client.post("/v1/chat/completions", json={**CHAT, "seed": seed}) as response:
        assert (await response.json())["seed"] == seed
    assert service.engine.submitted[1].sampling.seed == seed


async def test_openai_python_streams(serve: Serve) -> None:
    """The official client gets text, usage and end, through heartbeats, ids and retry."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, heartbeat_s=15)
    client = openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0)

    async def ask() -> tuple[str, Any]:
        text, usage = "", None
        stream = await client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage = chunk.usage or usage
        return text, usage

    asking = asyncio.create_task(ask())
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    await turns(lambda: service.rill.streams.n_readers == 1)
    for piece in STORY:
        clock.advance(15)
        service.rill.streams.tick()
        await asyncio.sleep(0.005)  # lets the heartbeat leave before the next delta; if not, nothing fails
        service.engine.delta(id, piece)
    service.engine.finish(id, n_generated=len(STORY))
    text, usage = await asking
    assert (text, usage.completion_tokens) == ("".join(STORY), len(STORY))
    await client.close()


async def test_openai_python_completes(serve: Serve) -> None:
    """Non-streamed answers on both routes, and the list of models."""
    service = await serve()
    async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0) as client:
        chat = await client.chat.completions.create(model="any", messages=[{"role": "user", "content": "hi"}])
        assert chat.choices[0].message.content == "".join(STORY)
        assert chat.usage is not None and chat.usage.prompt_tokens == 3
        text = await client.completions.create(model="any", prompt="hi")
        assert text.choices[0].text == "".join(STORY)
        assert [model.id async for model in client.models.list()] == ["scripted"]


async def test_openai_python_knows_our_errors(serve: Serve) -> None:
    """Its exceptions carry our codes, and an error on an open stream is raised, not ignored."""
    service = await serve(by_hand=True, n_seq=1, max_waiting=0, model_names="fox", api_keys="k")
    async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="k", max_retries=0) as client:

        async def ask(**changes: Any) -> Any:
            return await client.chat.completions.create(**{**CHAT, "model": "fox", **changes})

        with pytest.raises(openai.NotFoundError) as not_found:
            await ask(model="wolf")
        assert not_found.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await ask(extra_body={"best_of": 2})
        assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "best_of")
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        running = asyncio.create_task(ask(stream=True))
        id = (await service.engine.submission()).id
        service.engine.accept(id)
        stream = await running
        with pytest.raises(openai.RateLimitError) as full:
            await ask()
        assert full.value.code == "queue_full"
        service.engine.die(stays_down=True)
        with pytest.raises(openai.APIError) as failed:
            async for _ in stream:
                pass
        assert orjson.loads(orjson.dumps(failed.value.body))["code"] == "engine_crash"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_that_is_not_resumable_has_only_data_lines(serve: Serve, path: str) -> None:
    """It has no ids, no retry and no comments: strict OpenAI clients accept nothing else."""
    service = await serve()
    body = {"stream": True, **(CHAT if "chat" in path else {"prompt": "x"})}
    async with service.client.post(path, json=body) as response:
        lines = (await response.read()).split(b"\n")
    assert {line[:6] for line in lines if line} == {b"data: "}
    assert [event.data for event in parse(b"\n".join(lines))][-1] == "[DONE]"


async def test_a_heartbeat_as_a_data_line(serve: Serve) -> None:
    """It is an empty chunk: no content, but enough to keep proxies from closing the connection."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, heartbeat_s=5)
    opening = asyncio.create_task(service.client.post("/v1/chat/completions", json={**CHAT, "stream": True}))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    async with await opening as response:
        first = await response.content.readuntil(b"\n\n")
        await turns(lambda: service.rill.streams.n_readers)
        clock.advance(5)
        service.rill.streams.tick()
        (beat,) = parse(await response.content.readuntil(b"\n\n"))
        (opened,) = parse(first)
        assert beat.json()["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]
        assert beat.json()["id"] == opened.json()["id"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_answer_has_finish_reason_stop(serve: Serve, stream: bool) -> None:
    """OpenAI's clients know five finish reasons, and cancelled is none of them."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(
        service.client.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers={"X-Resumable": "1"})
    )
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    service.engine.delta(id, "a")
    async with service.client.delete(f"/v1/streams/{id}") as response:
        assert response.status == 204
    async with await asking as response:
        assert b'"finish_reason":"stop"' in await response.read()


@pytest.mark.parametrize("separator", ["\u0085", "\u2028", "\u2029"])
@pytest.mark.parametrize("path", ["/stream", "/v1/chat/completions"])
async def test_no_text_contains_a_line_separator(serve: Serve, separator: str, path: str) -> None:
    """Characters at which str.splitlines splits, with which httpx reads lines, are escaped in the JSON."""
    service = await serve()
    service.engine.pieces = (f"a{separator}b",)
    async with service.client.post(path, json={**CHAT, "stream": True}) as response:
        raw = (await response.read()).decode()
    assert separator not in raw
    assert len(raw.splitlines()) == len(raw.split("\n")) - 1
    said = [event.json() for event in parse(raw.encode()) if event.data != "[DONE]"]
    assert separator in orjson.dumps(said).decode()


@pytest.mark.parametrize(
    "prompt", [[], [5, "a"], None, "", [[]], [1.5], [True], [-1], [2**31], ["a", ""], [[1], [-2]], {"a": 1}, 7]
)
async def test_an_invalid_prompt_is_explained(serve: Serve, prompt: object) -> None:
    """It is refused in plain words, by the field's name."""
    service = await serve()
    async with service.client.post("/v1/completions", json={"prompt": prompt}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "prompt")
    assert "constrained" not in error["message"] and "branch" not in error["message"]


@pytest.mark.parametrize("prompt", [[1] * 1024, [[1] * 5000], ["a"] * 5000])
async def test_too_many_token_ids_are_refused_by_their_number(serve: Serve, prompt: list[object]) -> None:
    """They are refused before the ids are validated one by one, in the words that clients look for."""
    service = await serve()
    async with service.client.post("/v1/completions", json={"prompt": prompt}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 1024 tokens" in error["message"]
    assert service.engine.submitted == []


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_the_models_own_sampling_defaults(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """They apply on every route to what the request does not set; a key names the same request whatever they are."""
    service = await serve()
    key = {"Idempotency-Key": "k"}
    for own in ({"temperature": 0.25, "top_k": 20}, {"temperature": 0.5}):
        service.engine.info = ready(sampling=own)
        async with service.client.post(path, json={**body, "top_k": 7}, headers=key) as response:
            assert response.status == 200
            await response.read()
    (submit,) = service.engine.submitted
    assert (submit.sampling.temperature, submit.sampling.top_k, submit.sampling.top_p) == (0.25, 7, 0.95)


async def test_constraints_and_prompting_reach_the_engine(serve: Serve) -> None:
    """Of chat and of completions, where a list of token ids is cut to the last ones."""
    service = await serve()
    fields = {"min_tokens": 2, "stop_token_ids": [5], "bad_words": ["fox"], "cache_prompt": False}
    prefill = {"messages": [*CHAT["messages"], {"role": "assistant", "content": "Once"}]}
    ids = {"prompt": list(range(2000)), "truncate_prompt_tokens": 3}
    for path, body in (("/v1/chat/completions", prefill), ("/v1/completions", ids)):
        async with service.client.post(path, json={**body, **fields}) as response:
            assert response.status == 200
    chat, text = service.engine.submitted
    constraints = Constraints(min_tokens=2, stop_token_ids=(5,), bad_words=("fox",))
    assert chat.constraints == text.constraints == constraints
    assert chat.prompting == Prompting(continue_final_message=True, cache_prompt=False)
    assert (text.tokens, text.prompting) == (
        [1997, 1998, 1999],
        Prompting(truncate_prompt_tokens=3, cache_prompt=False),
    )
