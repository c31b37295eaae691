"""Bad requests to one service, some concurrently, each judged by its answer; a faulty one is reduced, and reported."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.events import parse
from tests.fuzz import bodies, forms, wires
from tests.fuzz.reply import Reply, send, wrong
from tests.fuzz.request import KEY, Request
from tests.fuzz.wires import Known
from tests.running import Service

N_AT_ONCE = 8  # far too few to fill the queue: no 429 is expected
N_SMALLER = 60  # attempts to reduce one request
N_KEPT = 40  # faults that are reported in full
BODIES = (*bodies.KINDS, *forms.KINDS)
KINDS = (*BODIES, *wires.KINDS)


def request(seed: int, i: int, known: Known) -> Request:
    """The i-th request of this seed, independent of those before it."""
    rng = random.Random(f"{seed} {i}")
    kind = rng.randrange(len(KINDS))
    if kind < len(BODIES):
        return BODIES[kind](rng)
    return wires.KINDS[kind - len(BODIES)](rng, known)


async def known(service: Service) -> Known:
    """Ids of an ended stream, and of one that pauses between two tokens for the whole run."""
    headers = {"Authorization": f"Bearer {KEY}", "X-Resumable": "1"}
    order = {"prompt": "hi", "max_tokens": 5, "ignore_eos": True}
    async with service.client.post("/stream", json=order, headers=headers) as response:
        streams, events = [response.headers["X-Stream-Id"]], [event.id for event in parse(await response.read())]
    async with service.client.post("/v1/streams", json=order | {"pace": 0.001}, headers=headers) as response:
        streams.append((await response.json())["id"])
    return Known(tuple(streams), (*events, f"{streams[1]}.0.00000000"))


@dataclass
class Fuzz:
    """One run, and its results."""

    port: int
    known: Known
    engine: Callable[[], int]  # its process id; 0: there is none now
    is_over: Callable[[], bool]  # the service has ended
    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))  # by kind
    faults: Counter[str] = field(default_factory=Counter)
    reported: list[str] = field(default_factory=list)  # faults and the requests that caused them
    _dead_ones: set[int] = field(default_factory=set)

    @property
    def n_sent(self) -> int:
        return sum(counter.total() for counter in self.statuses.values())

    async def run(self, seed: int, first: int, n: int, within_s: float) -> None:
        """Requests number first to first + n - 1, as many as fit into the time."""
        end, left = time.monotonic() + within_s, iter(range(first, first + n))
        under_way: dict[int, Request] = {}

        async def worker() -> None:
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
                group.create_task(worker())

    async def _judge(self, i: int, made: Request) -> None:
        reply = await self._send(made)
        self.statuses[made.kind][reply.status] += 1
        if fault := wrong(made, reply):
            await self._fault(i, fault, made)

    async def _send(self, made: Request) -> Reply:
        try:
            return await send(self.port, made)
        except OSError:  # it no longer listens
            return Reply(0)

    async def _fault(self, i: int, fault: str, made: Request) -> None:
        self.faults[fault] += 1
        if self.faults[fault] <= N_KEPT // 4 and len(self.reported) < N_KEPT:
            small = await self._smaller(made, fault)
            self.reported.append(f"{i} ({made.kind}): {fault}: {small}")

    async def _smaller(self, made: Request, fault: str) -> Request:
        """The smallest request found with the same fault."""
        n_left, tries = N_SMALLER, made.smaller()
        while n_left and (less := next(tries, None)) is not None:
            n_left -= 1
            if wrong(less, await self._send(less)) == fault:
                made, tries = less, less.smaller()
        return made

    def _dead(self, engine: int, under_way: dict[int, Request]) -> None:
        """The cause is one of the requests under way, or one that has just been answered."""
        if engine not in self._dead_ones:
            self._dead_ones.add(engine)
            self.faults["death of the engine"] += 1
            self.reported.append(f"the engine died; under way: {'; '.join(f'{i}: {r}' for i, r in under_way.items())}")


def table(statuses: dict[str, Counter[int]]) -> Iterator[str]:
    """The number of requests of each kind by status. 0: no answer was due, or none arrived."""
    columns = sorted({status for counter in statuses.values() for status in counter})
    total = sum(statuses.values(), Counter[int]())
    yield "| kind | requests | " + " | ".join(map(str, columns)) + " |\n|---|---|" + "---|" * len(columns)
    for kind, counter in [*sorted(statuses.items()), ("all", total)]:
        yield f"| {kind} | {counter.total()} | " + " | ".join(str(counter[c] or "") for c in columns) + " |"
