"""The load client: streams on /v1/completions, of Rill or any server with that API, and their tokens' arrival times."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

ANSWER_S = 300.0  # a longer answer counts as failed

# Short and common: with a space in front each is one token of nearly every vocabulary.
TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work night point home water room mother area money story
fact month lot right study book eye job word business issue side kind head house service friend father power
hour game line end member law car city name team minute idea body back parent face level office door health
person art war history party result change morning reason girl moment air teacher force
"""
WORDS = TEXT.split()


@dataclass(frozen=True)
class Ask:
    """The request that every stream of a run makes."""

    n_words: int = 64
    n_tokens: int = 64
    n_shared: int = 0  # words of the prefix that all prompts of a run share
    temperature: float = 0.0
    pace: float | None = None  # tokens/s

    def prompt(self, salt: str, i: int) -> str:
        """The i-th prompt of the run that the salt names: no other run has the same words."""
        common, own = random.Random(f"{salt} common"), random.Random(f"{salt} {i}")
        words = [common.choice(WORDS) for _ in range(self.n_shared)]
        return " ".join(words + [own.choice(WORDS) for _ in range(self.n_words - self.n_shared)])

    def body(self, salt: str, i: int) -> dict[str, Any]:
        body = {
            "prompt": self.prompt(salt, i),
            "max_tokens": self.n_tokens,
            "temperature": self.temperature,
            "seed": i,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body if self.pace is None else body | {"pace": self.pace}


@dataclass
class Answer:
    """The result of one stream, while it runs and afterwards; times are seconds of one clock."""

    began: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)  # arrival of each delta
    n_prompt: int = 0  # tokens
    n_tokens: int = 0
    error: str = ""  # empty: it ended normally
    answering: asyncio.Event = field(default_factory=asyncio.Event)  # its first delta has arrived, or it has failed

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.began

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times)]

    def take(self, line: bytes) -> None:
        """Handles a line of the event stream."""
        data = line.removeprefix(b"data:").strip()
        if data == line.strip() or data == b"[DONE]":
            return
        chunk = orjson.loads(data)
        if "error" in chunk:
            self.error = str(chunk["error"])
        if any(choice.get("text") for choice in chunk.get("choices") or ()):
            self.times.append(time.perf_counter())
            self.answering.set()
        if usage := chunk.get("usage"):
            self.n_prompt, self.n_tokens = usage["prompt_tokens"], usage["completion_tokens"]


@dataclass(frozen=True)
class Run:
    """Answers of one run, and the seconds from the first request to the last end."""

    answers: list[Answer]
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.n_tokens for answer in self.answers) / self.wall_s

    @property
    def ttfts_s(self) -> list[float]:
        return [answer.ttft_s for answer in self.answers]


class Failed(Exception):
    """A run that is not comparable, as not every request was answered."""


@asynccontextmanager
async def client(url: str, key: str = "") -> AsyncIterator[aiohttp.ClientSession]:
    """key: an API key, where one is required."""
    # One connection per stream: a server with a thread for each keep-alive connection, of few, does not wait for one.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, headers=headers) as session:
        yield session


async def stream(session: aiohttp.ClientSession, body: dict[str, Any], answer: Answer) -> None:
    """Reads one stream to its end; any failure is recorded in the answer's error."""
    try:
        async with session.post("/v1/completions", json=body) as response:
            if response.status != 200:
                answer.error = f"{response.status}: {(await response.text())[:200]}"
                return
            async for line in response.content:
                answer.take(line)
        answer.error = answer.error or ("" if answer.times else "an answer without a token")
    except (aiohttp.ClientError, TimeoutError) as e:
        answer.error = repr(e)
    finally:
        answer.answering.set()


async def closed_loop(session: aiohttp.ClientSession, ask: Ask, n_streams: int, n: int, salt: str) -> Run:
    """n requests, n_streams of them at any time: as one ends the next begins."""
    answers: list[Answer] = []
    left = iter(range(n))

    async def worker() -> None:
        for i in left:
            answers.append(Answer())
            await stream(session, ask.body(salt, i), answers[-1])

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(n_streams, n)):
            group.create_task(worker())
    return Run(answers, time.perf_counter() - began)


def checked(run: Run) -> Run:
    """The run, if every request was answered; raises Failed."""
    if errors := [answer.error for answer in run.answers if answer.error]:
        raise Failed(f"{len(errors)} of {len(run.answers)} requests failed: {errors[0]}")
    return run


def quantile(values: list[float], p: float) -> float:
    """The value that a share p of the values does not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p * len(ordered)))]
