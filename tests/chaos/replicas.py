"""Three replicas behind nginx, with Redis, in containers; streams are read while one fault after another occurs."""

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
from tests.chaos.faults import FAULTS, TOGETHER, Fault, throttled, wait_until_recovered
from tests.compose import standins
from tests.compose.stack import Stack, docker, engine_runs, up
from tests.events import text
from tests.running import orders

MAX_TOKENS = 600
N_AT_ONCE = 48
BOUND_S = 900.0  # of the undisturbed and of the disturbed run; streams that have not ended by then are counted
SHARE = 0.15  # of a core, for each replica: the readers, on the same cores, keep up
SETTINGS = {"kv_type": "bf16", "n_threads": "1", "drain_s": "3", "stream_ttl_s": "3600", "max_waiting": "256"}


@dataclass
class Outcome:
    """The results of the streams; and by fault how often it was caused, and how many streams were affected."""

    account: Account = field(default_factory=Account)
    n_durable: int = 0  # streams that are durable by their receipts at the end
    n_leases: int = 0  # that remain
    n_faults: Counter[str] = field(default_factory=Counter)
    n_open: Counter[str] = field(default_factory=Counter)  # streams that were being read when it began
    n_refused: Counter[str] = field(default_factory=Counter)  # streams of which a zombie's writes were refused

    def table(self) -> Iterator[str]:
        yield "\n" + head("three replicas", "durable at the end", "leases left")
        yield self.account.row(f"{sum(self.n_faults.values())} faults", self.n_durable, self.n_leases)
        yield "\n| fault | trials | streams open then | of which a zombie's writes were refused |\n|---|---|---|---|"
        for name, n in self.n_faults.items():
            yield f"| {name} | {n} | {self.n_open[name]} | {self.n_refused[name]} |"


async def trial(
    stack: Stack,
    asked: list[dict[str, Any]],
    faults: Iterable[tuple[str, Fault]],
    rng: random.Random,
    n_at_once: int = N_AT_ONCE,
) -> Outcome:
    """Reads streams of these requests, n_at_once at a time, while one fault after another is caused, until all are
    read. Once there are no more faults, no further stream is begun."""
    outcome, readings = Outcome(), [Reading() for _ in asked]
    over, calm = asyncio.Event(), asyncio.Event()
    run_id = f"{rng.getrandbits(64):x}"

    async def read_all(client: aiohttp.ClientSession) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BOUND_S):
                await _read(client, stack.url, asked, readings, run_id, n_at_once, calm)
        over.set()

    async def cause() -> None:
        for name, fault in faults:
            await asyncio.sleep(rng.uniform(1, 3))
            if over.is_set():
                return
            outcome.n_open[name] += sum(bool(r.events) and not r.has_ended for r in readings)
            outcome.n_faults[name] += 1
            outcome.n_refused[name] += await asyncio.to_thread(fault, stack, rng)
            await asyncio.to_thread(wait_until_recovered, stack)
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
    """All of them, or those begun before `calm` is set."""
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
    """The lines of the tables: n_streams under all FAULTS, n_together under kill_both."""
    rng = random.Random(seed)
    if script := os.environ.get("RILL_STANDINS"):
        await asyncio.to_thread(standins.make, script)
    if not engine_runs():
        yield "Replicas: not run, no Docker engine runs here."
        return
    with up("rillchaos", "rill-chaos", **SETTINGS) as stack:
        await asyncio.to_thread(stack.scale, 3)
        for n, faults in ((n_streams, FAULTS), (n_together, TOGETHER)):
            if n:
                outcome = await trial(stack, orders(n, 0, MAX_TOKENS), _in_turn(faults, rng), rng)
                for line in outcome.table():
                    yield line


def _in_turn(faults: Mapping[str, Fault], rng: random.Random) -> Iterator[tuple[str, Fault]]:
    """All faults in one order, then in other orders, without end."""
    while True:
        yield from rng.sample(list(faults.items()), len(faults))
