"""Log-probabilities on every route, streamed and in one piece, and after the engine's death."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import orjson
import pytest

from service.dialects.logprobs import entries, of_choice
from service.protocol.frames import Step
from service.protocol.said import Said, TokenLogprob
from tests.conftest import Serve, Service
from tests.events import parse
from tests.fakes import CHAT, PROMPT, STORY, finish, said

# For each route what asks for two of the likeliest tokens.
ASKING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
    ("/v1/completions", {**PROMPT, "logprobs": 2}),
]


def story(n: int) -> list[Said]:
    """What the scripted engine says with n of the likeliest tokens."""
    made = [said(piece, n, len("".join(STORY[:at]))) for at, piece in enumerate(STORY)]
    return [one for one in made if isinstance(one, Said)]


def expected(path: str) -> dict[str, Any]:
    return of_choice("chat" if "chat" in path else "text", [one for each in story(2) for one in each.logprobs])


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The lists of several chunks as one."""
    return {
        name: [one for part in parts for one in part[name]] if isinstance(value, list) else value
        for name, value in parts[0].items()
    }


async def streamed(service: Service, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with service.client.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200
        events = parse(await response.read())
    return [event.json()["choices"][0] for event in events[:-1]]


@pytest.mark.parametrize(("path", "body"), ASKING)
async def test_on_openais_routes(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """Each chunk with text has those of its tokens, the others have null; a response in one piece has them all."""
    service = await serve()
    choices = await streamed(service, path, body)
    with_text = [one for one in choices if one.get("text") or one.get("delta", {}).get("content")]
    assert len(with_text) == len(STORY)
    assert joined([one["logprobs"] for one in with_text]) == expected(path)
    assert [one["logprobs"] for one in choices if one not in with_text] == [None] * (len(choices) - len(STORY))
    async with service.client.post(path, json=body) as response:
        whole = (await response.json())["choices"][0]
    assert whole["logprobs"] == expected(path)
    assert [submit.logprobs for submit in service.engine.submitted] == [2, 2]


@pytest.mark.parametrize(("path", "body"), ASKING)
async def test_not_without_being_asked(serve: Serve, path: str, body: dict[str, Any]) -> None:
    """They are null everywhere."""
    service = await serve()
    plain = {name: value for name, value in body.items() if "logprobs" not in name}
    assert {one["logprobs"] for one in await streamed(service, path, plain)} == {None}
    assert service.engine.submitted[0].logprobs is None


@pytest.mark.parametrize("query", ["prompt=hi&logprobs=true&top_logprobs=1", "prompt=hi&logprobs=true"])
async def test_on_stream(serve: Serve, query: str) -> None:
    """Each default event has them in `logprobs`."""
    service = await serve()
    async with service.client.get(f"/stream?{query}") as response:
        events = [event.json() for event in parse(await response.read()) if event.name == "message"]
    wanted = [{"text": one.text, "logprobs": entries(one.logprobs)} for one in story(int(query[-1] == "1"))]
    assert events == wanted


@pytest.mark.parametrize(("path", "body"), ASKING)
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_after_the_engines_death(serve: Serve, path: str, body: dict[str, Any], is_streamed: bool) -> None:
    """Those of tokens before and after it together are those of an undisturbed answer."""
    service = await serve(by_hand=True)
    opening = asyncio.create_task(service.client.post(path, json={**body, "stream": is_streamed}))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    service.engine.delta(id, *story(2)[:2])
    service.engine.die()
    service.engine.load()
    again = await service.engine.submission(2)
    assert (again.delivered, again.logprobs) == ([7, 7], 2)
    service.engine.delta(id, *story(2)[2:])
    service.engine.finish(id)
    async with await opening as response:
        if is_streamed:
            choices = [event.json()["choices"][0] for event in parse(await response.read())[:-1]]
            found = joined([one["logprobs"] for one in choices if one["logprobs"]])
        else:
            found = (await response.json())["choices"][0]["logprobs"]
    assert found == expected(path)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_repeated_prompt(serve: Serve, is_streamed: bool) -> None:
    """What lm-eval sends, and what it reads: one entry for each token of the prompt, null for the first, and one for
    the generated one."""
    service = await serve(by_hand=True)
    body = {"prompt": [[5, 6]], "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "stream": is_streamed}
    opening = asyncio.create_task(service.client.post("/v1/completions", json=body))
    submit = await service.engine.submission()
    assert (submit.tokens, submit.echo, submit.logprobs, submit.max_tokens) == ([5, 6], True, 1, 1)
    service.engine.accept(submit.id)
    both = [*(one for each in story(1)[:2] for one in each.logprobs)]
    first = TokenLogprob("the", b"the", None, 0)
    service.engine.say(Step(deltas=[(submit.id, [7], Said("the fox", [first, *both]))], finished=[finish(submit.id)]))
    async with await opening as response:
        raw = await response.read()
    choices = [event.json()["choices"][0] for event in parse(raw)[:-1]] if is_streamed else orjson.loads(raw)["choices"]
    (answer,) = (one for one in choices if one["text"])
    assert answer["text"] == "the fox"
    assert answer["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]
    assert answer["logprobs"]["top_logprobs"] == [None, {"Once": -0.5}, {" upon": -0.5}]


async def test_openai_python_reads_them(serve: Serve) -> None:
    """The official client gets them as its own types."""
    service = await serve()
    async with openai.AsyncOpenAI(base_url=service.url + "/v1", api_key="none", max_retries=0) as client:
        messages: Any = CHAT["messages"]
        chat = await client.chat.completions.create(model="any", messages=messages, logprobs=True, top_logprobs=2)
        assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
        first = chat.choices[0].logprobs.content[0]
        assert (first.token, first.logprob, first.bytes) == ("Once", -0.5, list(b"Once"))
        assert [top.token for top in first.top_logprobs] == ["Once", "<|end|>"]
        text = await client.completions.create(model="any", prompt="hi", logprobs=2)
        assert text.choices[0].logprobs is not None and text.choices[0].logprobs.top_logprobs is not None
        assert text.choices[0].logprobs.top_logprobs[0] == {"Once": -0.5, "<|end|>": -2.25}
        assert text.choices[0].logprobs.tokens == list(STORY)
