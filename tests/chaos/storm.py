"""Readers leave at any moment, at two replicas with one log; the readers that stay must get their own streams."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.chaos.comeback import Account, Reading, head, read
from tests.events import parse, text
from tests.redis_server import PROGRAM, RedisServer
from tests.running import Service, orders, running

N_STAY = 20
N_AT_ONCE = 60
MAX_TOKENS = 800
STAY_S = 4.0  # the longest stay of a reader that leaves
BOUND_S = 600.0


@dataclass
class Visit:
    """The request of a reader that leaves, and what it had received by then."""

    id: str = ""  # of the stream
    raw: bytes = b""
    whole: str | None = None  # the complete text; None: in another dialect


@dataclass
class Storm:
    """The replicas' addresses, the requests and their texts; and the results of all visits."""

    urls: list[str]
    client: aiohttp.ClientSession
    rng: random.Random
    asked: list[dict[str, Any]]
    wholes: list[str]
    visits: list[Visit] = field(default_factory=list)
    streams: dict[str, str] = field(default_factory=dict)  # begun in the native dialect: their complete texts

    async def run(self, n: int) -> Account:
        """n readers leave early, N_AT_ONCE of them at a time; returns the results of those that stay, one per
        request."""
        readings, places = [Reading() for _ in self.asked], asyncio.Semaphore(N_AT_ONCE)

        async def leave() -> None:
            async with places:
                await self._leave()

        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            for order, reading in zip(self.asked, readings, strict=True):
                fields = _query(order) | {"key": f"stay-{self.rng.getrandbits(64):x}"}
                group.create_task(read(self.client, self.rng.choice(self.urls), fields, reading))
            for _ in range(n):
                group.create_task(leave())
        account = Account()
        for reading, whole in zip(readings, self.wholes, strict=True):
            account.enter(reading, whole)
        return account

    @property
    def n_events(self) -> int:
        return sum(visit.raw.count(b"\n\n") for visit in self.visits)

    @property
    def n_foreign(self) -> int:
        """Visits that received events of another stream, or another text."""
        return sum(not _is_own(visit) for visit in self.visits)

    async def _leave(self) -> None:
        """Starts one random action and cancels it."""
        kinds: list[Callable[[Visit], Awaitable[None]]]
        kinds = [self._start, self._start, self._attach, self._attach, self._complete, self._cancel, self._send_part]
        visit = Visit()
        self.visits.append(visit)
        doing = asyncio.ensure_future(self.rng.choice(kinds)(visit))
        await asyncio.wait([doing], timeout=self.rng.choice([0.01, 0.1, STAY_S]) * self.rng.random())
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)

    async def _start(self, visit: Visit) -> None:
        order, visit.whole = self._any_order()
        await self._read(visit, "GET", "/stream", params=_query(order))

    async def _complete(self, visit: Visit) -> None:
        order, _ = self._any_order()
        headers = {"X-Resumable": "1"} if self.rng.random() < 0.5 else {}
        await self._read(visit, "POST", "/v1/completions", json=order | {"stream": True}, headers=headers)

    async def _attach(self, visit: Visit) -> None:
        """To any running or ended stream."""
        if self.streams:
            visit.id, visit.whole = self.rng.choice(list(self.streams.items()))
            await self._read(visit, "GET", f"/v1/streams/{visit.id}", headers={"Accept": "text/event-stream"})

    async def _cancel(self, visit: Visit) -> None:
        """Starts a stream, reads it at one replica, and cancels it at another."""
        order, visit.whole = self._any_order()
        async with self.client.post(self._any_url() + "/v1/streams", json=order) as response:
            visit.id = (await response.json())["id"]
        reading = self._read(visit, "GET", f"/v1/streams/{visit.id}", headers={"Accept": "text/event-stream"})
        await asyncio.gather(reading, self._delete(visit.id))

    async def _delete(self, id: str) -> None:
        await asyncio.sleep(self.rng.random() * STAY_S / 8)
        (await self.client.delete(f"{self._any_url()}/v1/streams/{id}")).close()

    async def _send_part(self, visit: Visit) -> None:
        """Sends a part of a request, perhaps all of it, and disconnects."""
        order, visit.whole = self._any_order()
        host, _, port = self._any_url().removeprefix("http://").rpartition(":")
        request = f"GET /stream?{urlencode(_query(order))} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request[: self.rng.randrange(2 * len(request))])
            await asyncio.sleep(self.rng.random() * STAY_S / 8)
        finally:
            writer.transport.abort()

    async def _read(self, visit: Visit, method: str, path: str, **options: Any) -> None:
        async with self.client.request(method, self._any_url() + path, **options) as response:
            if response.status == 200:
                visit.id = visit.id or response.headers["X-Stream-Id"]
                if visit.whole is not None:
                    self.streams[visit.id] = visit.whole
                async for chunk in response.content.iter_any():
                    visit.raw += chunk

    def _any_url(self) -> str:
        return self.rng.choice(self.urls)

    def _any_order(self) -> tuple[dict[str, Any], str]:
        return self.rng.choice(list(zip(self.asked, self.wholes, strict=True)))


def _query(order: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in order.items()}


def _is_own(visit: Visit) -> bool:
    """Whether every event with an id names the requested stream, and the text, if known, is that stream's."""
    whole, end, _ = visit.raw.rpartition(b"\n\n")
    events = [event for event in parse(whole + end) if event.name != "failure"]
    names = {event.id.partition(".")[0] for event in events}
    return names <= {visit.id, ""} and (visit.whole is None or visit.whole.startswith(text(events)))


async def trials(n: int, seed: int) -> AsyncIterator[str]:
    """The table's lines, of n readers that leave and N_STAY that stay."""
    if PROGRAM is None:
        yield "Cancellation storm: not run, no redis-server here."
        return
    with tempfile.TemporaryDirectory() as directory:
        redis = RedisServer(Path(directory))
        redis.start()
        settings = {"redis_url": redis.url, "kv_type": "bf16", "max_waiting": "2000", "resume_grace_s": "1"}
        try:
            async with running(**settings) as one, running(**settings) as two:
                yield "\n" + head("storm", "events of readers that left", "of other streams or texts", "left over")
                asked = orders(N_STAY, 0, MAX_TOKENS)
                wholes = [text(await one.whole(**order)) for order in asked]
                storm = Storm([one.url, two.url], one.client, random.Random(seed), asked, wholes)
                account = await storm.run(n)
                left = await _left_over([one, two], redis)
                yield account.row(f"{N_STAY} stay, {n} leave", storm.n_events, storm.n_foreign, left)
        finally:
            redis.stop()


async def _left_over(services: list[Service], redis: RedisServer) -> str:
    """The streams, readers and leases that remain after time to close."""
    end = time.monotonic() + 60
    while True:
        streams = sum([await service.metric("llm_streams") for service in services])
        readers = sum([await service.metric("llm_readers") for service in services])
        leases = redis.ask("ZCARD", "rill:live").decode().strip().removeprefix(":")
        if time.monotonic() > end or (streams, readers, leases) == (0, 0, "0"):
            return f"{streams:.0f} streams, {readers:.0f} readers, {leases} leases"
        await asyncio.sleep(0.2)
