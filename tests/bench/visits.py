"""Random visits to a service: the request, how it is read and when its reader leaves."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.bench.load import WORDS
from tests.events import Event, numbers, parse

LEAVE = 0.4  # the share of visits that leave before they are done
LEAVE_S = 0.3  # the latest time to leave
MAX_WORDS, MAX_TOKENS = 100, 60

SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {},
    {"temperature": 1.5, "top_k": 100, "top_p": 0.9, "min_p": 0.02},
    {"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"dry_multiplier": 0.8, "dry_allowed_length": 1},
    {"xtc_probability": 0.5, "typical_p": 0.9, "top_n_sigma": 2.0},
    {"dynatemp_range": 0.5, "dynatemp_exponent": 1.5},
    {"mirostat": 2},
    {"adaptive_target": 0.5},
    {"logit_bias": {"5": -5, "6": False}},
    {"grammar": 'root ::= ([a-f]+ " " [0-9]{2,5} "\\n")+'},
    {"stop": [" the", " and"]},
    {"temperature": "hot"},  # invalid: 400
)


class Visits:
    """Makes visits to one service, and counts their outcomes."""

    def __init__(self, client: aiohttp.ClientSession, rng: random.Random) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()  # errors: failures, unexpected statuses, events lost or repeated
        self._client = client
        self._rng = rng

    async def one(self) -> None:
        kinds: list[Callable[[dict[str, Any]], Awaitable[str]]]
        kinds = [self._native, self._chat, self._text, self._whole, self._resumed, self._cancelled]
        visit = self._rng.choice(kinds)(self._order())
        try:
            if self._rng.random() < LEAVE:
                async with asyncio.timeout(LEAVE_S * self._rng.random()):
                    outcome = await visit
            else:
                outcome = await visit
        except TimeoutError:
            outcome = "left"
        self.outcomes[outcome] += 1

    def _order(self) -> dict[str, Any]:
        words = self._rng.choices(WORDS, k=self._rng.randint(1, MAX_WORDS))
        order = {"prompt": " ".join(words), "max_tokens": self._rng.randint(1, MAX_TOKENS)}
        return order | self._rng.choice(SAMPLERS) | {"seed": self._rng.getrandbits(31)}

    async def _native(self, order: dict[str, Any]) -> str:
        return await self._stream("/stream", order)

    async def _text(self, order: dict[str, Any]) -> str:
        return await self._stream("/v1/completions", order | {"stream": True})

    async def _chat(self, order: dict[str, Any]) -> str:
        messages = [{"role": "user", "content": order.pop("prompt")}]
        return await self._stream("/v1/chat/completions", order | {"messages": messages, "stream": True})

    async def _whole(self, order: dict[str, Any]) -> str:
        """A non-streamed answer."""
        async with self._client.post("/v1/completions", json=order) as response:
            return self._status(response) or self._end(b"error" if "error" in await response.json() else b"[DONE]")

    async def _stream(self, path: str, order: dict[str, Any]) -> str:
        async with self._client.post(path, json=order) as response:
            return self._status(response) or self._end(await response.read())

    async def _resumed(self, order: dict[str, Any]) -> str:
        """Reads a part, disconnects, and resumes to read the rest."""
        id, raw = "", b""
        async with self._client.post("/stream", json=order, headers={"X-Resumable": "1"}) as response:
            if refused := self._status(response):
                return refused
            id, bound = response.headers["X-Stream-Id"], self._rng.randrange(4000)
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > bound:
                    response.close()
                    break
        events = whole_events(raw)
        if not is_ended(events):
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": events[-1].id} if events else {})
            async with self._client.get(f"/v1/streams/{id}", headers=headers) as response:
                if refused := self._status(response):
                    return refused
                events += whole_events(await response.read())
        if numbers([e for e in events if e.name != "failure"], id) != list(range(len(events))):
            self.wrong["events lost or repeated"] += 1
        return self._end(b"event: failure" if events[-1].name == "failure" else b"event: done", "resumed")

    async def _cancelled(self, order: dict[str, Any]) -> str:
        """Starts a stream that is never read, and cancels it."""
        async with self._client.post("/v1/streams", json=order) as response:
            if response.status != 201:
                return self._status(response)
            url = (await response.json())["url"]
        await asyncio.sleep(LEAVE_S * self._rng.random())
        async with self._client.delete(url):
            return "cancelled"

    def _status(self, response: aiohttp.ClientResponse) -> str:
        """Empty if the response is an answer."""
        if response.status not in (200, 400, 429):  # 400: the invalid one in SAMPLERS
            self.wrong[f"status {response.status}"] += 1
        return "" if response.status == 200 else f"refused ({response.status})"

    def _end(self, raw: bytes, outcome: str = "done") -> str:
        if b"event: done" in raw or b"[DONE]" in raw:
            return outcome
        self.wrong["failure" if b"error" in raw or b"failure" in raw else "no end"] += 1
        return "failed"


def whole_events(raw: bytes) -> list[Event]:
    """The complete events in these bytes."""
    whole, end, _ = raw.rpartition(b"\n\n")
    return parse(whole + end)


def is_ended(events: list[Event]) -> bool:
    return bool(events) and events[-1].name in ("done", "failure")
