"""Requests of OpenAI's routes while the engine or a replica is killed: is each answer that of the undisturbed run?

The client reads through every death: with its connection, if that lasts, else at the other replica after its last
event.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import orjson

from tests.redis_server import PROGRAM, RedisServer
from tests.running import Service, running

MESSAGES = [{"role": "user", "content": "Tell me a story about a fox"}]
N_TOKENS = 200
LONGEST_S = 120.0  # of one answer, with the engine's restart or another replica's adoption
SCHEMA = {
    "type": "object",
    "properties": {
        "tales": {
            "type": "array",
            "minItems": 4,
            "items": {
                "type": "object",
                "properties": {"title": {"type": "string", "maxLength": 40}, "year": {"type": "integer"}},
                "required": ["title", "year"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["tales"],
    "additionalProperties": False,
}
ENDS = {"max_tokens": 2 * N_TOKENS, "ignore_eos": False}
FORM = {"type": "json_schema", "json_schema": {"name": "tales", "schema": SCHEMA, "strict": True}}
# Kind -> route and body; each is made with another seed in every trial.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "n=4": ("chat/completions", {"messages": MESSAGES, "n": 4, "max_tokens": N_TOKENS}),
    "three prompts": ("completions", {"prompt": ["A fox", "An owl", "The sea"], "max_tokens": N_TOKENS}),
    "schema": ("chat/completions", {"messages": MESSAGES, "response_format": FORM, **ENDS}),
    "schema, n=2": ("chat/completions", {"messages": MESSAGES, "n": 2, "guided_json": SCHEMA, **ENDS}),
    "log-probabilities": (
        "chat/completions",
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 3, "max_tokens": N_TOKENS},
    ),
    "echo": ("completions", {"prompt": "Once upon a time", "echo": True, "logprobs": 2, "max_tokens": N_TOKENS}),
    "constraints": (
        "completions",
        {"prompt": "A fox", "min_tokens": 150, "bad_words": ["the", "fox"], "max_tokens": N_TOKENS},
    ),
}


@dataclass
class Answer:
    """What a client has received: by choice, each field's parts joined; and its events' ids."""

    stream: str = ""
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    is_done: bool = False
    failure: str = ""

    def take(self, id: str, data: bytes) -> None:
        """One event."""
        self.ids.append(id)
        if data == b"[DONE]":
            self.is_done = True
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            self.failure = chunk["error"]["code"]
        for choice in chunk.get("choices", []):
            found = self.choices.setdefault(choice["index"], {})
            for name, value in _parts(choice):
                found[name] = found[name] + value if name in found else value


def _parts(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    """What of a chunk's choice belongs to the answer, as values that are joined with `+`."""
    parts = [(name, value) for name, value in choice.get("delta", {}).items() if isinstance(value, str)]
    parts += [("text", choice["text"])] if "text" in choice else []
    parts += [("finish_reason", choice["finish_reason"])] if choice["finish_reason"] else []
    calls = choice.get("delta", {}).get("tool_calls") or []
    parts += [(f"call {call['index']}", call["function"].get("arguments", "")) for call in calls]
    logprobs = choice.get("logprobs") or {}
    return parts + [(f"logprobs.{name}", value) for name, value in logprobs.items() if isinstance(value, list)]


def is_valid(choice: dict[str, Any]) -> bool:
    """Whether an answer that begins as JSON, and has ended, is JSON of the schema."""
    text = choice.get("content", "")
    if choice.get("finish_reason") != "stop" or not text.startswith("{"):
        return True
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return bool(validator.is_valid(orjson.loads(text)))


@dataclass
class Tally:
    """The answers of one kind."""

    n: int = 0
    n_hit: int = 0  # that were running when something was killed
    n_changed: int = 0
    n_repeated: int = 0  # events
    n_failed: int = 0
    n_invalid: int = 0  # ended by themselves, but do not have the form that was asked for
    worst_s: float = 0.0  # from a kill to the answer's end
    notes: list[str] = field(default_factory=list)

    def enter(self, got: Answer, whole: Answer) -> None:
        self.n += 1
        self.n_repeated += len(got.ids) - len(set(got.ids))
        self.n_failed += not got.is_done
        self.n_invalid += not all(map(is_valid, got.choices.values()))
        if got.choices != whole.choices:
            self.n_changed += 1
            self.notes.append(f"answer {self.n}: {got.choices} instead of {whole.choices}"[:400])
        if got.failure or not got.is_done:
            self.notes.append(f"answer {self.n}: {got.failure or 'no [DONE]'} after {len(got.ids)} events")


async def read(urls: list[str], kind: str, seed: int, answer: Answer, *, key: str) -> None:
    """All of an answer, at one replica after another until it is done."""
    path, body = KINDS[kind]
    body = {"ignore_eos": True} | body | {"stream": True, "seed": seed}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
    async with asyncio.timeout(LONGEST_S), aiohttp.ClientSession(timeout=timeout) as client:
        for attempt in range(1000):
            url = f"{urls[attempt % len(urls)]}/v1/{path}"
            headers = {"Idempotency-Key": key} | ({"Last-Event-ID": answer.ids[-1]} if answer.ids else {})
            try:
                async with client.post(url, json=body, headers=headers) as response:
                    if response.status == 200:
                        await _take_all(response, answer)
            except aiohttp.ClientError:
                pass
            if answer.is_done or answer.failure:
                return
            await asyncio.sleep(0.1)


async def _take_all(response: aiohttp.ClientResponse, answer: Answer) -> None:
    id = ""
    async for line in response.content:
        if line.startswith(b"id: "):
            id = line[4:-1].decode()
        elif line.startswith(b"data: "):
            answer.take(id, line[6:-1])


async def engine_trials(n: int, seed: int) -> dict[str, Tally]:
    """n kills of the engine, the kinds in turn."""
    rng, tallies = random.Random(seed), {kind: Tally() for kind in KINDS}
    kinds = [kind for _, kind in zip(range(n), _cycle(), strict=False)]
    async with running(kv_type="bf16", max_waiting="64") as service:
        for trial, kind in enumerate(kinds):
            whole = await _undisturbed(service, kind, trial)
            got = Answer()
            reading = asyncio.create_task(read([service.url], kind, trial, got, key=f"{trial}-b"))
            await _reached(got, reading, rng.uniform(0.05, 0.8) * len(whole.ids))
            tally = tallies[kind]
            tally.n_hit += not reading.done()
            os.kill(service.engine_pid(), signal.SIGKILL)
            await _finish(reading, got, whole, tally)
            await service.ready()
    return tallies


async def replica_trials(n: int, seed: int) -> dict[str, Tally]:
    """n kills of the replica that generates, the kinds in turn."""
    rng, tallies = random.Random(seed), {kind: Tally() for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory))
        redis.start()
        try:
            for trial, kind in zip(range(n), _cycle(), strict=False):
                await _replica_trial(redis.url, kind, trial, rng, tallies[kind])
        finally:
            redis.stop()
    return tallies


async def _replica_trial(redis_url: str, kind: str, trial: int, rng: random.Random, tally: Tally) -> None:
    async with AsyncExitStack() as stack:
        settings = {"kv_type": "bf16", "max_waiting": "64", "redis_url": redis_url}
        one, two = [await stack.enter_async_context(running(**settings)) for _ in range(2)]
        whole = await _undisturbed(two, kind, trial)
        got = Answer()
        reading = asyncio.create_task(read([one.url, two.url], kind, trial, got, key=f"{trial}-b"))
        await _reached(got, reading, rng.uniform(0.05, 0.8) * len(whole.ids))
        tally.n_hit += not reading.done()
        one.process.kill()
        await _finish(reading, got, whole, tally)


async def _undisturbed(service: Service, kind: str, trial: int) -> Answer:
    whole = Answer()
    await read([service.url], kind, trial, whole, key=f"{trial}-a")
    return whole


async def _reached(got: Answer, reading: asyncio.Task[None], n: float) -> None:
    """Until it has more than n events."""
    while len(got.ids) <= n and not reading.done():  # noqa: ASYNC110  # an event for each would be thousands
        await asyncio.sleep(0.001)


async def _finish(reading: asyncio.Task[None], got: Answer, whole: Answer, tally: Tally) -> None:
    killed = time.monotonic()
    try:
        await reading
    except TimeoutError:
        tally.notes.append(f"answer {tally.n + 1}: not done after {LONGEST_S:.0f} s")
    tally.worst_s = max(tally.worst_s, time.monotonic() - killed)
    tally.enter(got, whole)


def _cycle() -> list[str]:
    return [*KINDS] * 1000


HEAD = "| killed | what | answers (hit) | changed | invalid | repeated | failed | longest rest |\n" + 8 * "|---" + "|"


def rows(killed: str, tallies: dict[str, Tally]) -> list[str]:
    return [
        f"| {killed} | {kind} | {t.n} ({t.n_hit}) | {t.n_changed} | {t.n_invalid} | {t.n_repeated} | {t.n_failed} "
        f"| {t.worst_s:.1f} s |"
        for kind, t in tallies.items()
        if t.n
    ]


async def trials(n: int, seed: int) -> AsyncIterator[str]:
    """The table's lines; half of the kills are of replicas where there is a Redis."""
    n_replicas = n // 2 if PROGRAM else 0
    yield HEAD
    for killed, run, count in (("engine", engine_trials, n - n_replicas), ("replica", replica_trials, n_replicas)):
        tallies = await run(count, seed)
        for row in rows(killed, tallies):
            yield row
        for kind, tally in tallies.items():
            for note in tally.notes:
                yield f"  {killed}, {kind}, {note}"
