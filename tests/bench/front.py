"""How many token events per second and core the front delivers, and their latency: python -m tests.bench.front

The front is a process of its own, connected to a fake engine that computes nothing, with the readers in two others.
Events are counted where they arrive, and divided by the CPU seconds that the front's process used meanwhile, so
other load on the machine matters little. Ends by itself: a row takes about ten seconds, a minute at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from service.__main__ import allow_many_connections
from tests.bench.readers import Counts, Readers, reading
from tests.running import running

FRONT, ENGINE = (str(Path(__file__).parents[1] / name) for name in ("front.py", "bench/engine.py"))
ROUTES = ("/stream", "/v1/completions")
N_PROCESSES = 2  # of readers
WARM_UP_S = 1.0
ROW_S = 60.0
READING_SPEED = 20  # tokens/s, as a person reads: for a row with the latency of a front that is not saturated


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. Counts cover its `wall_s` seconds; the CPU time, in seconds, is the front process's."""

    route: str
    n_streams: int
    steps_per_s: float  # 0: as fast as the front reads them
    wall_s: float
    user_s: float
    system_s: float
    counts: Counts

    @property
    def events_per_core_s(self) -> float:
        return self.counts.n_events / (self.user_s + self.system_s)

    def __str__(self) -> str:
        counts, latencies = self.counts, sorted(self.counts.latencies_ms)
        return (
            f"| {self.route} | {self.n_streams} | {f'{self.steps_per_s:g} a second' if self.steps_per_s else 'full'} "
            f"| {self.events_per_core_s:,.0f} | {1e6 * self.user_s / counts.n_events:.1f} "
            f"| {1e6 * self.system_s / counts.n_events:.1f} | {counts.n_events / self.wall_s:,.0f} "
            f"| {counts.n_events / counts.n_writes:.2f} | {latencies[len(latencies) // 2]:.1f} "
            f"| {latencies[len(latencies) * 99 // 100]:.1f} |"
        )


HEAD = (
    "| route | streams | steps | events/s per core | user µs each | system µs each | events/s | events a write "
    "| latency p50, ms | p99 |\n|---|---|---|---|---|---|---|---|---|---|"
)


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds that the process has used so far: user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick_s, int(fields[12]) * tick_s


async def total(readers: list[Readers]) -> Counts:
    """The sum of what all readers have received so far."""
    each = await asyncio.gather(*(reader.counts() for reader in readers))
    assert not any(counts.n_ended for counts in each), "a stream ended"
    latencies = [latency for counts in each for latency in counts.latencies_ms]
    return Counts(sum(c.n_events for c in each), sum(c.n_writes for c in each), 0, latencies)


async def measure(route: str, n_streams: int, steps_per_s: float, wall_s: float) -> Row:
    """One row, from the front's start to its end."""
    engine = (ENGINE, "--streams", str(n_streams), "--steps-per-s", str(steps_per_s))
    async with (
        asyncio.timeout(ROW_S),
        running(FRONT, *engine, drain_s="0", log_level="error") as service,
        AsyncExitStack() as stack,
    ):
        n = n_streams // N_PROCESSES
        made = (reading(service.port, route, first=i * n, n=n) for i in range(N_PROCESSES))
        readers = await asyncio.gather(*map(stack.enter_async_context, made))
        await asyncio.sleep(WARM_UP_S)
        loop, before, began = asyncio.get_running_loop(), cpu_s(service.pid), await total(readers)
        began_at = loop.time()
        await asyncio.sleep(wall_s)
        ended, after, ended_at = await total(readers), cpu_s(service.pid), loop.time()
    made_since = Counts(ended.n_events - began.n_events, ended.n_writes - began.n_writes, 0, ended.latencies_ms)
    user_s, system_s = after[0] - before[0], after[1] - before[1]
    return Row(route, n_streams, steps_per_s, ended_at - began_at, user_s, system_s, made_since)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--seconds", type=float, default=5.0, help="measuring time per row, 30 at most")
    args = parser.parse_args()
    allow_many_connections()
    print(HEAD, flush=True)
    rows = [(route, n, 0.0) for route in ROUTES for n in args.streams]
    for route, n, steps_per_s in [*rows, (ROUTES[0], max(args.streams), READING_SPEED)]:
        print(await measure(route, n, steps_per_s, min(args.seconds, 30.0)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
