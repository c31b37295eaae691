from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from service import __version__
from service.protocol.context_length import too_long
from service.protocol.frames import Rejected
from tests.conftest import Serve, Service
from tests.events import numbers, parse
from tests.fakes import PROMPT, STORY

STREAMED = {**PROMPT, "stream": True}


async def completed(service: Service, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    async with service.client.post("/completion", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["X-Stream-Id"]
        found: dict[str, Any] = await response.json()
        return found


async def test_a_whole_completion(serve: Serve) -> None:
    """One object with llama-server's names, the settings that were used and the seed."""
    service = await serve()
    body = await completed(service, {**PROMPT, "n_predict": 9, "temperature": 0.5, "grammar": 'root ::= "a"'})
    assert (body["content"], body["stop"], body["stop_type"]) == ("".join(STORY), True, "eos")
    assert (body["tokens_predicted"], body["tokens_evaluated"], body["model"]) == (len(STORY), 3, "scripted")
    (submit,) = service.engine.submitted
    assert (submit.text, submit.max_tokens, submit.sampling.temperature) == ("hi", 9, 0.5)
    settings = body["generation_settings"]
    assert (settings["temperature"], settings["n_predict"], settings["stream"]) == (0.5, 9, False)
    assert (settings["seed"], settings["n_ctx"]) == (submit.sampling.seed, 1024)
    assert "root" not in orjson.dumps(body).decode()


async def test_a_streamed_completion(serve: Serve) -> None:
    """`data:` lines alone: a piece each, and the end's totals in the last one, without [DONE]."""
    service = await serve()
    async with service.client.post("/completion", json=STREAMED) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        raw = await response.read()
    assert b"id:" not in raw and b"event:" not in raw
    *pieces, last = [event.json() for event in parse(raw)]
    assert [piece["content"] for piece in pieces] == ["", *STORY]
    assert {piece["stop"] for piece in pieces} == {False}
    assert (last["content"], last["stop"], last["tokens_predicted"]) == ("", True, len(STORY))


async def test_a_resumable_one_is_continued_anywhere(serve: Serve) -> None:
    """With ids, by its own route and by the stream's, in its own format."""
    service = await serve()
    async with service.client.post("/completion", json=STREAMED, headers={"X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    assert numbers(events, id) == list(range(len(events)))
    after = {"Last-Event-ID": events[2].id}
    async with service.client.post("/completion", headers=after) as response:
        assert parse(await response.read()) == events[3:]
    async with service.client.get(f"/v1/streams/{id}", headers=after) as response:
        assert parse(await response.read()) == events[3:]


async def test_the_same_key_gets_the_same_answer(serve: Serve) -> None:
    """A repeated request with an Idempotency-Key generates once; another one with that key is refused."""
    service = await serve()
    key = {"Idempotency-Key": "k"}
    assert await completed(service, PROMPT, **key) == await completed(service, PROMPT, **key)
    async with service.client.post("/completion", json=STREAMED, headers=key) as response:
        assert response.status == 409
    assert len(service.engine.submitted) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": {"prompt_string": "a"}}, "prompt"),
        ({**PROMPT, "stream": "yes"}, "stream"),
        ({**PROMPT, "n_probs": 3}, "n_probs"),
        ({**PROMPT, "temperature": -1}, "temperature"),
    ],
)
async def test_bad_input(serve: Serve, body: dict[str, Any], param: str) -> None:
    """400 in the common error format, with the field's name."""
    service = await serve()
    async with service.client.post("/completion", json=body) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, param)
    assert service.engine.submitted == []


@pytest.mark.parametrize("body", [PROMPT, STREAMED])
async def test_a_prompt_that_is_too_long(serve: Serve, body: dict[str, Any]) -> None:
    """The error has llama-server's counts."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(service.client.post("/completion", json=body))
    message, counts = too_long(2000, 1024)
    id = (await service.engine.submission()).id
    service.engine.say(Rejected(id, "context_length_exceeded", message, counts=counts))
    async with await asking as response:
        error = (await response.json())["error"]
    assert (response.status, error["n_prompt_tokens"], error["n_ctx"]) == (400, 2000, 1024)


async def test_it_is_counted_by_its_route(serve: Serve) -> None:
    """Its requests have a series of their own."""
    service = await serve()
    await completed(service, PROMPT)
    assert await service.metric('llm_requests_total{outcome="stop",route="/completion"}') == 1


async def test_props(serve: Serve) -> None:
    """What is loaded and the defaults, by llama-server's names; no path."""
    service = await serve(model="/somewhere/else.gguf")
    async with service.client.get("/props") as response:
        assert response.status == 200
        props = await response.json()
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["default_generation_settings"]["params"]["top_k"] == 40
    assert (props["total_slots"], props["model_alias"], props["model_path"]) == (4, "scripted", "scripted")
    assert (props["chat_template"], props["bos_token"], props["eos_token"]) == ("{{ messages }}", "<s>", "</s>")
    assert props["build_info"] == f"rill-{__version__}-0.0.0"
    assert "somewhere" not in orjson.dumps(props).decode()


async def test_nothing_is_loaded_yet(serve: Serve) -> None:
    """503, so that a client tries again."""
    service = await serve(starts_ready=False)
    async with service.client.get("/props") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "not_ready")
    async with service.client.post("/completion", json=PROMPT) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "not_ready")
        assert response.headers["Retry-After"]
