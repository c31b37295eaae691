"""Eight hours' requests in a short time: does either process grow? python -m tests.bench.soak --requests 50000

Requests of all sorts to the starter, many of which leave before the end; the memory of the front and of the engine is
sampled a hundred times. One-time allocations and the streams kept for RILL_STREAM_TTL_S are complete after
the warm-up, the first quarter: growth after it would continue for ever. 50,000 requests take half an hour on two cores;
it ends after --within-s in any case, with the requests made by then.
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
SETTINGS = {"stream_ttl_s": "10", "resume_grace_s": "2"}  # short compared with the warm-up
MIB = 1 << 20


@dataclass(frozen=True)
class Look:
    """The memory of both processes, in bytes, after n requests."""

    n: int
    front: int
    engine: int


@dataclass(frozen=True)
class Growth:
    """The growth of one process's memory after the warm-up, in bytes."""

    first: float  # the mean of the first quarter after the warm-up
    last: float  # the mean of the last quarter
    per_thousand: float  # requests: the slope of the regression line

    def row(self, process: str, warm: int, end: int) -> str:
        cells = (warm, end, self.first, self.last, self.last - self.first)
        shown = " | ".join(f"{value / MIB:.1f}" for value in cells)
        return f"| {process} | {shown} | {self.per_thousand / 1024:+.1f} KiB |"


def growth(points: list[tuple[int, int]]) -> Growth:
    """From the (requests, bytes) after the warm-up; four at least."""
    quarter = max(1, len(points) // 4)
    slope, _ = linear_regression([n for n, _ in points], [size for _, size in points])
    first, last = (mean(size for _, size in part) for part in (points[:quarter], points[-quarter:]))
    return Growth(first, last, 1000 * slope)


def own(pid: int) -> int:
    """Resident bytes of a process without those of files, of which the kernel keeps as many as it has room for."""
    return of_processes([pid])["Anonymous"]


async def soak(service: Service, n: int, within_s: float, rng: random.Random) -> tuple[list[Look], Visits]:
    """n visits, N_AT_ONCE of them at any time, as many as fit into the time."""
    visits, looks, left = Visits(service.client, rng), [], iter(range(1, n + 1))
    every, end = max(1, n // N_LOOKS), time.monotonic() + within_s

    async def worker() -> None:
        for i in left:
            if time.monotonic() > end:
                return
            await visits.one()
            if i % every == 0:
                with suppress(
                    LookupError, ValueError, OSError
                ):  # the engine is being restarted, which is reported at the end
                    looks.append(Look(i, own(service.pid), own(service.engine_pid())))

    async with asyncio.TaskGroup() as group:
        for _ in range(N_AT_ONCE):
            group.create_task(worker())
    return sorted(looks, key=lambda look: look.n), visits


async def left_over(service: Service) -> str:
    """The streams and readers that remain after time to close."""
    end = time.monotonic() + 60
    while True:
        n_streams, n_readers = await service.metric("llm_streams"), await service.metric("llm_readers")
        if time.monotonic() > end or n_streams == n_readers == 0:
            return f"{n_streams:.0f} streams, {n_readers:.0f} readers"
        await asyncio.sleep(0.2)


def rows(looks: list[Look]) -> list[str]:
    """The growth of each process after the warm-up."""
    after = looks[int(WARM * len(looks)) :]
    found = []
    for process in ("front", "engine"):
        points = [(look.n, getattr(look, process)) for look in after]
        found.append(growth(points).row(process, points[0][1], points[-1][1]))
    return found


def tables(looks: list[Look], visits: Visits) -> str:
    """The growth of the processes and the outcomes of the visits; Markdown."""
    head = "| MiB of its own | after warm-up | at the end | first quarter | last quarter | more | per 1,000 requests |"
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in visits.outcomes.most_common())
    wrong = ", ".join(f"{n} {what}" for what, n in visits.wrong.most_common()) or "nothing"
    summary = f"{visits.outcomes.total()} visits: {outcomes}; wrong: {wrong}."
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows(looks), "", summary])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="%(default)s")
    parser.add_argument("--within-s", type=float, default=3600.0, help="%(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting for Rill")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def main() -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients log the faults caused on purpose
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
