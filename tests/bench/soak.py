"""Eight hours' visits at once: does either process grow? python -m tests.bench.soak --requests 50000

Visits of all sorts to the starter, of which many leave in the middle; the memory of the front and of the engine is
looked at a hundred times. What is made once, and what finished streams are kept for RILL_STREAM_TTL_S, is there after
the warm-up, the first quarter: what grows after it would grow for ever. 50,000 requests take half an hour on two cores;
it ends after --within-s in any case, with what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from statistics import linear_regression, mean

from tests.bench.memory import of_processes
from tests.bench.visits import Visits
from tests.running import Service, running

N_LOOKS = 100
N_AT_ONCE = 24
WARM = 0.25  # of all requests
SETTINGS = {"stream_ttl_s": "10", "resume_grace_s": "2"}  # short beside the warm-up
MIB = 1 << 20


@dataclass(frozen=True)
class Look:
    """The memory of both processes, in bytes, when so many requests had been made."""

    n: int
    front: int
    engine: int


@dataclass(frozen=True)
class Growth:
    """How the memory of one process went on after the warm-up, in bytes."""

    first: float  # the mean of the first quarter of what followed the warm-up
    last: float  # and of the last
    per_thousand: float  # requests: the slope of the line through all looks

    def row(self, process: str, warm: int, end: int) -> str:
        cells = (warm, end, self.first, self.last, self.last - self.first)
        shown = " | ".join(f"{value / MIB:.1f}" for value in cells)
        return f"| {process} | {shown} | {self.per_thousand / 1024:+.1f} KiB |"


def growth(points: list[tuple[int, int]]) -> Growth:
    """Of (requests, bytes), those after the warm-up; four at least."""
    quarter = max(1, len(points) // 4)
    slope, _ = linear_regression([n for n, _ in points], [size for _, size in points])
    first, last = (mean(size for _, size in part) for part in (points[:quarter], points[-quarter:]))
    return Growth(first, last, 1000 * slope)


def own(pid: int) -> int:
    """Bytes of a process that are in memory, but for files': of these the kernel keeps as much as it has room for."""
    return of_processes([pid])["Anonymous"]


async def soak(service: Service, n: int, within_s: float, rng: random.Random) -> tuple[list[Look], Visits]:
    """n visits, N_AT_ONCE of them at any time, as many of them as can be made within the time."""
    visits, looks, left = Visits(service.client, rng), [], iter(range(1, n + 1))
    every, end = max(1, n // N_LOOKS), time.monotonic() + within_s

    async def one_after_the_other() -> None:
        for i in left:
            if time.monotonic() > end:
                return
            await visits.one()
            if i % every == 0:
                with suppress(
                    LookupError, ValueError, OSError
                ):  # the engine is just being restarted, which is told at the end
                    looks.append(Look(i, own(service.pid), own(service.engine_pid())))

    async with asyncio.TaskGroup() as group:
        for _ in range(N_AT_ONCE):
            group.create_task(one_after_the_other())
    return sorted(looks, key=lambda look: look.n), visits


async def left_over(service: Service) -> str:
    """What is still there of streams and readers, when they have had time to go."""
    end = time.monotonic() + 60
    while True:
        n_streams, n_readers = await service.metric("llm_streams"), await service.metric("llm_readers")
        if time.monotonic() > end or n_streams == n_readers == 0:
            return f"{n_streams:.0f} streams, {n_readers:.0f} readers"
        await asyncio.sleep(0.2)


def rows(looks: list[Look]) -> list[str]:
    """How each process went on after the warm-up."""
    after = looks[int(WARM * len(looks)) :]
    found = []
    for process in ("front", "engine"):
        points = [(look.n, getattr(look, process)) for look in after]
        found.append(growth(points).row(process, points[0][1], points[-1][1]))
    return found


def tables(looks: list[Look], visits: Visits) -> str:
    """What the processes grew by, and what the visits came to; markdown."""
    head = "| MiB of its own | after warm-up | at the end | first quarter | last quarter | more | per 1,000 requests |"
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in visits.outcomes.most_common())
    wrong = ", ".join(f"{n} {what}" for what, n in visits.wrong.most_common()) or "nothing"
    told = f"{visits.outcomes.total()} visits: {outcomes}; wrong: {wrong}."
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows(looks), "", told])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="%(default)s")
    parser.add_argument("--within-s", type=float, default=3600.0, help="%(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one more setting of Rill's")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def main() -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients complain of what we do to them
    args = arguments()
    settings = SETTINGS | dict(setting.split("=", 1) for setting in args.set)
    async with running(**settings) as service:
        began = time.monotonic()
        looks, visits = await soak(service, args.requests, args.within_s, random.Random(args.seed))
        took_s = time.monotonic() - began
        print(tables(looks, visits))
        restarts = await service.metric("llm_engine_restarts_total")
        print(f"It took {took_s:.0f} s; the engine was restarted {restarts:.0f} times; left over: ", end="", flush=True)
        print(f"{await left_over(service)}.")


if __name__ == "__main__":
    asyncio.run(main())
