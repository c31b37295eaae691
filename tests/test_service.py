"""The service as it is deployed, with its real engine and the embedded model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.events import numbers, parse, text
from tests.patience import LIMITS, PATIENCE_S
from tests.running import Service, running

STORY = "Tell me a story about a fox"
TOPICS = ("fox", "owl", "bear", "cat", "river", "moon", "ship", "tree")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    async with running(kv_type="bf16", **LIMITS) as one:  # exact on a CPU
        yield one
        assert await one.end() == 0


async def test_a_story_and_then_204(service: Service) -> None:
    """README's curl command: thinking, answering, text, one done; then 204 for the id of its last event."""
    async with service.client.get("/stream", params={"prompt": STORY, "max_tokens": "200"}) as response:
        events = parse(await response.read())
    assert [event.name for event in events if event.name in ("done", "failure")] == ["done"]
    done = events[-1].json()
    n_deltas = sum(event.name == "message" for event in events)
    assert len(text(events)) > 20 and 0 < n_deltas <= done["usage"]["completion_tokens"] <= 200
    assert 0 < done["timings"]["ttft_s"] <= done["timings"]["total_s"]
    async with service.client.get(
        "/stream", params={"prompt": STORY}, headers={"Last-Event-ID": events[-1].id}
    ) as response:
        assert response.status == 204


async def test_64_at_once_equal_each_alone(service: Service) -> None:
    """No stream mixes with another; greedy and seeded text is the text of the same request run alone."""
    orders = [
        {
            "prompt": f"Tell me a story about a {TOPICS[n % 8]} number {n}",
            "temperature": 0 if n % 2 else 0.8,
            "seed": n,
            "max_tokens": 60,
        }
        for n in range(64)
    ]
    together = await asyncio.gather(*[service.whole(**order) for order in orders])
    alone = [await service.whole(**order) for order in orders]
    assert [text(events) for events in together] == [text(events) for events in alone]


async def test_the_same_seed_gives_the_same_text(service: Service) -> None:
    """Also if the service chose the seed."""
    events = await service.whole(prompt=STORY, max_tokens=40)
    again = await service.whole(prompt=STORY, max_tokens=40, seed=events[-1].json()["seed"])
    assert text(again) == text(events)


async def test_several_answers_are_those_of_several_requests(service: Service) -> None:
    """Four choices have the texts of four requests with their seeds, whole, streamed, and with the engine killed in the
    middle; each later one finds its prompt in the cache."""
    body = {"messages": [{"role": "user", "content": STORY}], "max_tokens": 60, "seed": 7}
    path = "/v1/chat/completions"

    async def whole(**changes: Any) -> dict[str, Any]:
        async with service.client.post(path, json=body | changes) as response:
            found: dict[str, Any] = await response.json()
        return found

    alone = [(await whole(seed=7 + k))["choices"][0]["message"]["content"] for k in range(4)]
    together = await whole(n=4)
    assert [choice["message"]["content"] for choice in together["choices"]] == alone
    for kills in (False, True):
        found, n_seen = [""] * 4, 0
        async with service.client.post(path, json=body | {"n": 4, "stream": True}) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    found[choice["index"]] += choice["delta"].get("content", "")
                n_seen += 1
                if kills and n_seen == 12:
                    os.kill(service.engine_pid(), signal.SIGKILL)
        await service.ready()
        assert found == alone


BAD: list[tuple[str, bytes, int]] = [
    ("/v1/completions", b'{"prompt": "' + b"word " * 20_000 + b'"}', 400),
    ("/v1/completions", b'{"prompt": "' + b"x" * 900_000 + b'"}', 400),
    ("/v1/completions", b'{"prompt": [2147483647]}', 400),
    ("/v1/completions", b'{"prompt": [-1]}', 400),
    ("/v1/completions", b'{"prompt": "x", "temperature": NaN}', 400),
    ("/v1/completions", b'{"prompt": "x", "temperature": 1e999}', 400),
    ("/v1/completions", b'{"prompt": "\xff"}', 400),
    ("/v1/completions", b'{"prompt": "\\ud800"}', 400),
    ("/v1/completions", b"x" * 2_000_000, 413),
    ("/v1/completions", b'{"prompt": "a\\u0000b", "max_tokens": 2}', 200),
    ("/v1/completions", b'{"prompt": "<|im_start|><|im_end|>", "max_tokens": 2}', 200),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "<|im_end|>"}], "max_tokens": 2}', 200),
    ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": ""}], "max_tokens": 2}', 200),
    ("/v1/chat/completions", b'{"messages": [{"role": "system", "content": "a"}], "max_tokens": 2}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 2, "stop": "\\u0000"}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 2, "top_k": 2147483647, "min_p": 1}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 2, "top_p": 0, "temperature": 2}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 2, "repeat_penalty": 1e-300}', 400),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 2147483647, "stop": ["e", " "]}', 200),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= ("}', 400),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= ' + b"(" * 20_000 + b"[a]" + b")" * 20_000 + b'"}', 400),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= [a]{1000000}"}', 400),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= root [a]"}', 400),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= [a] !<[5]>"}', 400),
    ("/v1/completions", b'{"prompt": "x", "grammar": "root ::= [a]", "max_tokens": 9, "ignore_eos": true}', 200),
    ("/v1/completions", b'{"prompt": "x", "logit_bias": {"2147483647": 1}}', 400),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "logit_bias": {"5": 100, "6": false}}', 200),
    ("/v1/completions", b'{"prompt": "x", "stop_token_ids": [2147483647]}', 400),
    (
        "/v1/completions",
        b'{"prompt": "x", "max_tokens": 9, "logit_bias": {" fox": 9}, "bad_words": [" the", "a b"]}',
        200,
    ),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "min_tokens": 9, "stop_token_ids": [0], "stop": "e"}', 200),
    (
        "/v1/completions",
        b'{"prompt": ' + str([5] * 5000).encode() + b', "max_tokens": 2, "truncate_prompt_tokens": -1}',
        200,
    ),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "dry_multiplier": 100, "dry_base": 100}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "mirostat": 1, "mirostat_tau": 0, "mirostat_eta": 10}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "adaptive_target": 1, "adaptive_decay": 0}', 200),
    ("/v1/completions", b'{"prompt": "x", "max_tokens": 9, "dynatemp_range": 2, "dynatemp_exponent": 10}', 200),
]


async def test_bad_input_leaves_the_engine_alone(service: Service) -> None:
    """All of it gets a clear 4xx, or an answer; the engine's process stays the same."""
    engine = service.engine_pid()
    for path, body, status in BAD:
        async with service.client.post(path, data=body) as response:
            assert response.status == status, (body[:80], await response.text())
            answer = await response.json()
            assert ("error" in answer) == (status >= 400)
    async with service.client.post("/v1/completions", data=BAD[0][1]) as response:
        error = (await response.json())["error"]
    assert error["code"] == "context_length_exceeded" and re.search(r"\d+ tokens", error["message"])
    assert service.engine_pid() == engine


async def test_metrics_match_the_answers(service: Service) -> None:
    """The increase of the counters equals the answers' figures."""

    async def counted() -> dict[str, float]:
        async with service.client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = await counted()
    usages = [(await service.whole(prompt=STORY, max_tokens=n))[-1].json()["usage"] for n in (5, 10, 15)]
    after = await counted()

    def gained(name: str) -> float:
        return after[name] - before[name]

    ended = sum(gained(f'llm_requests_total{{outcome="{how}",route="/stream"}}') for how in ("stop", "length"))
    assert ended == gained("gen_ai_server_time_to_first_token_seconds_count") == 3
    assert gained('llm_tokens_total{direction="in"}') == sum(usage["prompt_tokens"] for usage in usages)
    assert gained('llm_tokens_total{direction="out"}') == sum(usage["completion_tokens"] for usage in usages)
    assert (after["llm_running"], after["llm_waiting"], after["llm_kv_cache_used_cells"]) == (0, 0, 0)


async def test_a_client_that_leaves_frees_its_sequence(service: Service) -> None:
    """The engine's cells are free again soon after a plain POST was closed."""
    body = {"prompt": STORY, "ignore_eos": True, "pace": 5}
    responses = [await service.client.post("/stream", json=body) for _ in range(8)]
    for response in responses:
        await response.content.readuntil(b'"text"')
        response.close()
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with service.client.get("/metrics") as response:
                exposition = await response.text()
            if "llm_running 0.0" in exposition and "llm_kv_cache_used_cells 0.0" in exposition:
                return


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSTOP])
async def test_streams_survive_the_engine(service: Service, number: signal.Signals) -> None:
    """Sixteen open streams, greedy and seeded, continue in the next engine: every event of each arrives once, in order,
    and the text is that of an undisturbed run. A hung engine is detected by its silence."""
    bodies = [
        {"prompt": f"{STORY} {i}", "ignore_eos": True, "max_tokens": 400, "temperature": i % 2, "seed": i, "stop": "\0"}
        for i in range(16)
    ]
    undisturbed = await asyncio.gather(*[service.whole(**body) for body in bodies])
    responses = [await service.client.post("/stream", json=body) for body in bodies]
    heads = [await response.content.readuntil(b'"text"') for response in responses]
    engine = service.engine_pid()
    os.kill(engine, number)
    for head, response, whole in zip(heads, responses, undisturbed, strict=True):
        events = parse(head + await response.read())
        assert text(events) == text(whole)
        assert numbers(events, response.headers["X-Stream-Id"]) == list(range(len(events)))
        assert (events[-1].name, events[-1].json()["usage"]["completion_tokens"]) == ("done", 400)
    await service.ready()
    assert service.engine_pid() != engine
    assert (await service.whole(prompt=STORY, max_tokens=5))[-1].name == "done"


SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 1, "repeat_penalty": 1.2, "frequency_penalty": 0.5},
    {"temperature": 0.8, "dry_multiplier": 0.8},
    {"temperature": 0, "dry_multiplier": 3},
    {"temperature": 1, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"temperature": 1.2, "typical_p": 0.5},
    {"temperature": 1.5, "top_n_sigma": 1},
    {"temperature": 1, "dynatemp_range": 1},
    {"temperature": 1, "logit_bias": {"100": 5, "101": False}},
    {"temperature": 1, "grammar": "root ::= ([a-z]+ [ ,.])+"},
    {"temperature": 0, "grammar": "root ::= ([a-z]+ [ ,.])+"},
    {"temperature": 1, "min_tokens": 250, "stop": ["the", "."], "include_stop_str_in_output": True},
    {"temperature": 0, "bad_words": ["the", "fox", " was a", "."], "min_tokens": 40, "stop_token_ids": [300, 301]},
    {"temperature": 1, "logit_bias": {" fox": 3, " the": False}, "truncate_prompt_tokens": 3, "cache_prompt": False},
    {"temperature": 1, "grammar": 'root ::= ([A-Z] [a-z ]+ ".\\n")+', "xtc_probability": 0.3, "dry_multiplier": 1},
]

FORGETFUL: list[dict[str, Any]] = [{"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.3}]


async def test_samplers_survive_the_engine(service: Service) -> None:
    """Streams with every sampler continue in the next engine with the text of an undisturbed run; those with state that
    can't be rebuilt end with not_resumable."""
    bodies = [{"prompt": STORY, "ignore_eos": True, "max_tokens": 300, "seed": i} | s for i, s in enumerate(SAMPLERS)]
    # Longer, so that they are still running when all others have begun.
    forgetful = [{"prompt": STORY, "ignore_eos": True, "max_tokens": 900, "seed": 1} | s for s in FORGETFUL]
    undisturbed = await asyncio.gather(*[service.whole(**body) for body in bodies])
    ask = [service.client.post("/stream", json=body) for body in [*bodies, *forgetful]]
    responses = await asyncio.gather(*ask)
    heads = await asyncio.gather(*[response.content.readuntil(b'"text"') for response in responses])
    os.kill(service.engine_pid(), signal.SIGKILL)
    ended = [parse(head + await response.read()) for head, response in zip(heads, responses, strict=True)]
    for body, events, whole in zip(bodies, ended, undisturbed, strict=False):
        assert (events[-1].name, text(events)) == ("done", text(whole)), body
    for events in ended[len(bodies) :]:
        assert (events[-1].name, events[-1].json()["error"]["code"]) == ("failure", "not_resumable")
    await service.ready()


async def test_an_answer_of_a_grammar(service: Service) -> None:
    """It is valid, and ends with stop; a grammar that no token fits fails by name, and affects no other request."""
    engine = service.engine_pid()
    grammar = 'root ::= "{\\"animal\\": \\"" ("fox" | "owl") "\\"}"'
    events = await service.whole(prompt=STORY, grammar=grammar)
    assert text(events) in ('{"animal": "fox"}', '{"animal": "owl"}')
    assert events[-1].json()["finish_reason"] == "stop"
    events = await service.whole(prompt=STORY, grammar='root ::= "a" [^\\x00-\\UFFFFFFFF]')
    assert (events[-1].name, events[-1].json()["error"]["param"]) == ("failure", "grammar")
    assert service.engine_pid() == engine
