"""Connections cut at any byte: does every client assemble the text, with nothing lost or repeated?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
from openai.types.chat import ChatCompletionChunk

from tests.chaos import browsers
from tests.events import Event, numbers, parse, text
from tests.running import Service, orders, running

MAX_TOKENS = 60
N_CUTS = 4  # per stream, at most
N_AT_ONCE = 8


@dataclass
class Tally:
    """The results of one client's streams."""

    n_streams: int = 0
    n_cuts: int = 0
    n_lost: int = 0  # events
    n_repeated: int = 0
    n_changed: int = 0  # texts that differ from the undisturbed one


class Saw:
    """A proxy to the service whose connection breaks after a random number of bytes, N_CUTS times, and then holds."""

    def __init__(self, port: int, rng: random.Random, longest: int) -> None:
        self._port, self._rng, self._longest = port, rng, longest
        self.n_cuts = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._done = asyncio.Event()
        self._done.set()

    @asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._done.wait()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        ends = {writer, up_writer}
        self._writers |= ends
        self._done.clear()
        limit = self._rng.randrange(self._longest) if self.n_cuts < N_CUTS else None
        there = asyncio.create_task(self._carry(reader, up_writer, None))
        self.n_cuts += await self._carry(up_reader, writer, limit)
        for end in ends:
            end.transport.abort() if limit is not None else end.close()
        await there
        self._writers -= ends
        if not self._writers:
            self._done.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> bool:
        """Forwards bytes to their end, or `limit` of them; returns whether it stopped at the limit."""
        n = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data if limit is None else data[: limit - n])
                await writer.drain()
                n += len(data)
                if limit is not None and n >= limit:
                    return True
        return False


async def by_event_source(url: str, order: dict[str, Any]) -> tuple[str, list[Event]]:
    """As a browser does: the same address again, with the id of the last complete event."""
    fields = {name: str(value) for name, value in order.items()} | {"key": f"k{random.getrandbits(64)}"}
    events: list[Event] = []
    async with aiohttp.ClientSession() as client:
        while True:
            headers = {"Last-Event-ID": events[-1].id} if events else {}
            raw = b""
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(url + "/stream", params=fields, headers=headers) as response:
                    async for chunk in response.content.iter_any():
                        raw += chunk
            events += parse(raw.decode("utf-8", "ignore").encode())
            if events and events[-1].name in ("done", "failure"):
                return text(events), events


async def by_openai(url: str, order: dict[str, Any]) -> tuple[str, list[Event]]:
    """openai-python: when its stream breaks, it attaches to X-Stream-Id and reads on after its last event."""
    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
    body = {name: value for name, value in order.items() if name != "prompt"}
    headers = {"X-Resumable": "1", "Idempotency-Key": f"k{random.getrandbits(64)}"}
    id = ""
    for _ in range(10 * N_CUTS):
        with contextlib.suppress(Exception):  # any that its transport raises in the middle of a body
            if not id:
                raw = await client.chat.completions.with_raw_response.create(
                    model="any",
                    messages=[{"role": "user", "content": str(order["prompt"])}],
                    stream=True,
                    extra_headers=headers,
                    extra_body=body,
                )
                id = raw.headers["X-Stream-Id"]
                stream = raw.parse()
            else:
                stream = await client.get(
                    f"/streams/{id}",
                    cast_to=ChatCompletionChunk,
                    stream=True,
                    stream_cls=openai.AsyncStream[ChatCompletionChunk],
                    options={"headers": {"Accept": "text/event-stream"}},  # its default, JSON, gets the receipt
                )
            whole = ""
            async for chunk in stream:
                whole += chunk.choices[0].delta.content or "" if chunk.choices else ""
                if chunk.choices and chunk.choices[0].finish_reason:
                    return whole, []
    raise AssertionError("the stream never ended")


Client = Callable[[str, dict[str, Any]], Awaitable[tuple[str, list[Event]]]]


@asynccontextmanager
async def clients(home: str) -> AsyncIterator[dict[str, Client | None]]:
    """By name; None for one that this machine lacks. A client returns the text, and the events if it exposes them."""

    def text_only(ask: browsers.Ask | None) -> Client | None:
        async def client(url: str, order: dict[str, Any]) -> tuple[str, list[Event]]:
            assert ask is not None
            return await ask(url, order), []

        return client if ask else None

    async with browsers.chromium(home) as in_chromium, browsers.node() as in_node:
        yield {
            "EventSource (in Python)": by_event_source,
            "openai-python": by_openai,
            "EventSource (Chromium)": text_only(in_chromium),
            "eventsource (npm)": text_only(in_node),
        }


async def trials(n_cuts: int, seed: int) -> AsyncIterator[str]:
    """A row of the table for each client: streams are read until n_cuts of its connections have been cut."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = f"http://127.0.0.1:{port}"
    async with (
        running(kv_type="bf16", port=str(port), allowed_origins=own) as service,
        clients(own) as all_clients,
    ):
        for name, client in all_clients.items():
            rng, tally = random.Random(seed), Tally()
            while client is not None and tally.n_cuts < n_cuts:
                await asyncio.gather(*[_one(service, client, rng, tally, salt) for salt in range(N_AT_ONCE)])
            yield row(name, tally) if client else f"| {name} | not run: not on this machine | | | | |"


async def _one(service: Service, client: Client, rng: random.Random, tally: Tally, salt: int) -> None:
    (order,) = orders(1, 1000 * tally.n_streams + salt, MAX_TOKENS)
    whole = text(await service.whole(**order))
    saw = Saw(service.port, rng, longest=MAX_TOKENS * 80)
    async with saw.url() as url:
        said, events = await client(url, order)
    tally.n_streams += 1
    tally.n_cuts += saw.n_cuts
    tally.n_changed += said != whole
    if events:
        got = numbers(events, events[0].id.partition(".")[0])
        tally.n_lost += len(set(range(max(got) + 1)) - set(got))
        tally.n_repeated += len(got) - len(set(got))


HEAD = "| client | streams | cuts | events lost | repeated | text changed |\n|---|---|---|---|---|---|"


def row(name: str, t: Tally) -> str:
    return f"| {name} | {t.n_streams} | {t.n_cuts} | {t.n_lost} | {t.n_repeated} | {t.n_changed} |"
