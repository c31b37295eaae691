"""Log-probabilities of the real engine, killed in the middle of its answers."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from service.engine.llama.model import Model
from service.starter import MODEL
from tests.events import parse
from tests.patience import LIMITS
from tests.running import Service, running

PROMPT = "Once upon a time there was a fox"
MORE: dict[str, Any] = {"max_tokens": 600, "ignore_eos": True, "seed": 7, "stream": True}  # longer than the test needs
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": PROMPT, "echo": True, "logprobs": 2, **MORE}),
    ("/v1/completions", {"prompt": PROMPT, "logprobs": 0, "temperature": 0, **MORE}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "Tell me a story"}], "logprobs": True, "top_logprobs": 3, **MORE},
    ),
]


async def read(service: Service, path: str, body: dict[str, Any], begun: asyncio.Event) -> list[Any]:
    """The choice of each chunk; `begun` is set at the first one with log-probabilities."""
    raw = b""
    async with service.client.post(path, json=body) as response:
        assert response.status == 200
        async for part in response.content.iter_any():
            raw += part
            if b'"logprobs":{' in raw:
                begun.set()
    return [event.json()["choices"][0] for event in parse(raw)[:-1]]


async def test_they_survive_the_engine() -> None:
    """What was sent before and after it was killed is, chunk for chunk, what an undisturbed answer has."""
    async with running(kv_type="bf16", **LIMITS) as service:
        undisturbed = [await read(service, *each, asyncio.Event()) for each in ASKED]
        begun = [asyncio.Event() for _ in ASKED]
        reading = [asyncio.create_task(read(service, *each, has)) for each, has in zip(ASKED, begun, strict=True)]
        for has in begun:
            await has.wait()
        os.kill(service.engine_pid(), signal.SIGKILL)
        assert await asyncio.gather(*reading) == undisturbed
        assert await service.metric("llm_streams_continued_total") > 0


async def test_a_prompts_score_is_that_of_the_same_text_generated() -> None:
    """Given an answer as its prompt, the model finds each of its tokens as likely as when it generated them."""
    async with running(kv_type="bf16", **LIMITS) as service:
        body: dict[str, Any] = {"prompt": PROMPT, "logprobs": 1, "max_tokens": 30, "temperature": 0, "ignore_eos": True}
        async with service.client.post("/v1/completions", json=body) as response:
            made = (await response.json())["choices"][0]
        model = Model(MODEL, vocab_only=True)
        ids = {model.piece(token).decode("utf-8", "replace"): token for token in range(model.n_vocab)}
        prompt = model.tokenize(PROMPT, add_special=True, parse_special=False)
        prompt += [ids[token] for token in made["logprobs"]["tokens"]]  # a tokenizer might cut the text elsewhere
        score = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0}
        async with service.client.post("/v1/completions", json=score) as response:
            scored = (await response.json())["choices"][0]
    n = len(made["logprobs"]["tokens"])
    assert scored["text"] == PROMPT + made["text"]
    assert scored["logprobs"]["tokens"][-n:] == made["logprobs"]["tokens"]
    assert scored["logprobs"]["token_logprobs"][0] is None
    found = scored["logprobs"]["token_logprobs"][-n:]
    assert found == pytest.approx(made["logprobs"]["token_logprobs"], abs=1e-5)
    assert scored["logprobs"]["text_offset"][-n] == len(PROMPT) + made["logprobs"]["text_offset"][0]
