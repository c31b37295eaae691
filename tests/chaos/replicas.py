"""Three replicas behind nginx, with Redis, in containers; streams are read while one thing after another goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.comeback import Account, Reading, head, read
from tests.chaos.troubles import TOGETHER, TROUBLES, Trouble, mended, throttled
from tests.compose import standins
from tests.compose.stack import Stack, docker, engine_runs, up
from tests.events import text
from tests.running import orders

MAX_TOKENS = 600
N_AT_ONCE = 48
BOUND_S = 900.0  # of the undisturbed and of the disturbed run; what has not ended by then is counted
SHARE = 0.15  # of a core, for each replica: what reads their streams, on the same cores, keeps up
SETTINGS = {"kv_type": "bf16", "n_threads": "1", "drain_s": "3", "stream_ttl_s": "3600", "max_waiting": "256"}


@dataclass
class Outcome:
    """What the streams came to; and by the name of each trouble how often there was one, and what it met."""

    account: Account = field(default_factory=Account)
    n_durable: int = 0  # streams whose receipt says so at the end
    n_leases: int = 0  # that are left
    n_troubles: Counter[str] = field(default_factory=Counter)
    n_open: Counter[str] = field(default_factory=Counter)  # streams that were being read when it began
    n_refused: Counter[str] = field(default_factory=Counter)  # streams that a zombie was refused further writes of

    def table(self) -> Iterator[str]:
        yield "\n" + head("three replicas", "durable at the end", "leases left")
        yield self.account.row(f"{sum(self.n_troubles.values())} troubles", self.n_durable, self.n_leases)
        yield "\n| trouble | trials | streams open then | of which a zombie was refused |\n|---|---|---|---|"
        for name, n in self.n_troubles.items():
            yield f"| {name} | {n} | {self.n_open[name]} | {self.n_refused[name]} |"


async def trial(
    stack: Stack,
    asked: list[dict[str, Any]],
    troubles: Iterable[tuple[str, Trouble]],
    rng: random.Random,
    n_at_once: int = N_AT_ONCE,
) -> Outcome:
    """Reads streams of these orders, n_at_once at a time. Meanwhile one trouble after another, until all are read; when
    the troubles are over first, no further stream is begun."""
    outcome, readings = Outcome(), [Reading() for _ in asked]
    over, calm = asyncio.Event(), asyncio.Event()
    run_id = f"{rng.getrandbits(64):x}"

    async def read_all(client: aiohttp.ClientSession) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BOUND_S):
                await _read(client, stack.url, asked, readings, run_id, n_at_once, calm)
        over.set()

    async def cause() -> None:
        for name, trouble in troubles:
            await asyncio.sleep(rng.uniform(1, 3))
            if over.is_set():
                return
            outcome.n_open[name] += sum(bool(r.events) and not r.has_ended for r in readings)
            outcome.n_troubles[name] += 1
            outcome.n_refused[name] += await asyncio.to_thread(trouble, stack, rng)
            await asyncio.to_thread(mended, stack)
        calm.set()

    async with _client() as client:
        with throttled(stack, SHARE):
            async with asyncio.TaskGroup() as group:
                group.create_task(read_all(client))
                group.create_task(cause())
        begun = [(order, reading) for order, reading in zip(asked, readings, strict=True) if reading.n_openings]
        undisturbed = [Reading() for _ in begun]
        async with asyncio.timeout(BOUND_S):
            await _read(client, stack.url, [o for o, _ in begun], undisturbed, f"{run_id}-undisturbed", n_at_once)
        assert all(alone.failure is None for alone in undisturbed)
        for (_, reading), alone in zip(begun, undisturbed, strict=True):
            outcome.account.enter(reading, text(alone.events))
            outcome.n_durable += bool(reading.events) and await _is_durable(client, stack.url, reading)
    outcome.n_leases = await asyncio.to_thread(_leases, stack)
    return outcome


async def _read(
    client: aiohttp.ClientSession,
    url: str,
    asked: list[dict[str, Any]],
    readings: list[Reading],
    key: str,
    n_at_once: int,
    calm: asyncio.Event | None = None,
) -> None:
    """All of them, or those that are begun before it is calm."""
    places = asyncio.Semaphore(n_at_once)

    async def one(order: dict[str, Any], reading: Reading) -> None:
        async with places:
            if calm is not None and calm.is_set():
                return
            await read(client, url, {n: str(v) for n, v in order.items()} | {"key": f"{key}-{order['seed']}"}, reading)

    await asyncio.gather(*map(one, asked, readings))


async def _is_durable(client: aiohttp.ClientSession, url: str, reading: Reading) -> bool:
    async with client.get(f"{url}/v1/streams/{reading.stream}", headers={"Accept": "application/json"}) as response:
        return response.status == 200 and bool((await response.json())["durable"])


def _leases(stack: Stack) -> int:
    [redis] = stack.containers("redis")
    return int(docker("exec", redis, "redis-cli", "zcard", "rill:live"))


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, connect=10)
    )


async def trials(n_streams: int, n_together: int, seed: int) -> AsyncIterator[str]:
    """The tables' lines: n_streams under all TROUBLES, n_together under kill_both."""
    rng = random.Random(seed)
    if script := os.environ.get("RILL_STANDINS"):
        await asyncio.to_thread(standins.make, script)
    if not engine_runs():
        yield "Replicas: not run, no Docker engine runs here."
        return
    with up("rillchaos", "rill-chaos", **SETTINGS) as stack:
        await asyncio.to_thread(stack.scale, 3)
        for n, troubles in ((n_streams, TROUBLES), (n_together, TOGETHER)):
            if n:
                outcome = await trial(stack, orders(n, 0, MAX_TOKENS), _in_turn(troubles, rng), rng)
                for line in outcome.table():
                    yield line


def _in_turn(troubles: Mapping[str, Trouble], rng: random.Random) -> Iterator[tuple[str, Trouble]]:
    """All of them, in one order and then in others, for ever."""
    while True:
        yield from rng.sample(list(troubles.items()), len(troubles))
