"""Bad requests to one service, some at a time, each judged by its answer; what is wrong is made smaller, and told."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.events import parse
from tests.fuzz import bodies, wires
from tests.fuzz.reply import Reply, send, wrong
from tests.fuzz.request import KEY, Request
from tests.fuzz.wires import Known
from tests.running import Service

N_AT_ONCE = 8  # far from what fills the queue: no 429 is due
N_SMALLER = 60  # tries to make one request smaller
N_KEPT = 40  # faults that are told in full
KINDS = (*bodies.KINDS, *wires.KINDS)


def request(seed: int, i: int, known: Known) -> Request:
    """The i-th of this seed, whichever came before it."""
    rng = random.Random(f"{seed} {i}")
    kind = rng.randrange(len(KINDS))
    if kind < len(bodies.KINDS):
        return bodies.KINDS[kind](rng)
    return wires.KINDS[kind - len(bodies.KINDS)](rng, known)


async def known(service: Service) -> Known:
    """Ids of a stream that has ended, and of one that rests between two tokens for as long as all this lasts."""
    headers = {"Authorization": f"Bearer {KEY}", "X-Resumable": "1"}
    order = {"prompt": "hi", "max_tokens": 5, "ignore_eos": True}
    async with service.client.post("/stream", json=order, headers=headers) as response:
        streams, events = [response.headers["X-Stream-Id"]], [event.id for event in parse(await response.read())]
    async with service.client.post("/v1/streams", json=order | {"pace": 0.001}, headers=headers) as response:
        streams.append((await response.json())["id"])
    return Known(tuple(streams), (*events, f"{streams[1]}.0.00000000"))


@dataclass
class Fuzz:
    """One run, and what it came to."""

    port: int
    known: Known
    engine: Callable[[], int]  # its process; 0: there is none just now
    is_over: Callable[[], bool]  # the service has ended
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # by kind
    faults: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)  # of faults: which, and by what request
    _dead_ones: set[int] = field(default_factory=set)

    @property
    def n_sent(self) -> int:
        return sum(counter.total() for counter in self.statuses.values())

    async def run(self, seed: int, first: int, n: int, within_s: float) -> None:
        """Requests number first to first + n - 1, as many of them as can be made within the time."""
        end, left = time.monotonic() + within_s, iter(range(first, first + n))
        under_way: dict[int, Request] = {}

        async def one_after_the_other() -> None:
            for i in left:
                if time.monotonic() > end or self.is_over():
                    return
                under_way[i] = made = request(seed, i, self.known)
                engine = self.engine()
                await self._judge(i, made)
                if engine and self.engine() != engine:
                    self._dead(engine, under_way)
                del under_way[i]

        async with asyncio.TaskGroup() as group:
            for _ in range(N_AT_ONCE):
                group.create_task(one_after_the_other())

    async def _judge(self, i: int, made: Request) -> None:
        reply = await self._send(made)
        self.statuses[made.kind][reply.status] += 1
        if fault := wrong(made, reply):
            await self._fault(i, fault, made)

    async def _send(self, made: Request) -> Reply:
        try:
            return await send(self.port, made)
        except OSError:  # it does not listen any more
            return Reply(0)

    async def _fault(self, i: int, fault: str, made: Request) -> None:
        self.faults[fault] += 1
        if self.faults[fault] <= N_KEPT // 4 and len(self.told) < N_KEPT:
            small = await self._smaller(made, fault)
            self.told.append(f"{i} ({made.kind}): {fault}: {small}")

    async def _smaller(self, made: Request, fault: str) -> Request:
        """The least that is found to come to the same."""
        n_left, tries = N_SMALLER, made.smaller()
        while n_left and (less := next(tries, None)) is not None:
            n_left -= 1
            if wrong(less, await self._send(less)) == fault:
                made, tries = less, less.smaller()
        return made

    def _dead(self, engine: int, under_way: dict[int, Request]) -> None:
        """It was one of those under way, or one that had just been answered."""
        if engine not in self._dead_ones:
            self._dead_ones.add(engine)
            self.faults["death of the engine"] += 1
            self.told.append(f"the engine died; under way: {'; '.join(f'{i}: {r}' for i, r in under_way.items())}")


def table(statuses: dict[str, Counter[int]]) -> Iterator[str]:
    """How many requests of each kind got which status. 0: no answer was due, or none came."""
    columns = sorted({status for counter in statuses.values() for status in counter})
    total = sum(statuses.values(), Counter[int]())
    yield "| kind | requests | " + " | ".join(map(str, columns)) + " |\n|---|---|" + "---|" * len(columns)
    for kind, counter in [*sorted(statuses.items()), ("all", total)]:
        yield f"| {kind} | {counter.total()} | " + " | ".join(str(counter[c] or "") for c in columns) + " |"
