"""`make fuzz`: thousands of bad requests while one client streams continuously, and the faults that they cause.

make fuzz FUZZ='--n 20000 --seed 1'

Each request is drawn by its number: `--first 1234 --n 1` sends the 1,234th of a seed again. Exit status 1: a 5xx
that does not mean "not now", an error that is not OpenAI's object, no answer where one is due, an error in the log,
a death of the engine or the service, or a pause of over a second in the neighbour's streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests import neighbours
from tests.bench.load import Answer, Ask, quantile
from tests.bench.memory import of_processes
from tests.fuzz.fuzz import Fuzz, known, table
from tests.fuzz.request import KEY
from tests.running import Service, running

NEIGHBOUR = "neighbour"  # its API key
ASK = Ask(n_words=16, n_tokens=256)
ALONE_S = 5.0  # for which the neighbour is measured beforehand
MOST_PAUSE_S = 1.0
SETTINGS = {"resume_grace_s": "1", "api_keys": f"{NEIGHBOUR},{KEY}"}  # a stream without a reader soon ends
RESTARTS = "llm_engine_restarts_total"
MIB = 1 << 20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000, help="requests: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within-s", type=float, default=1800.0, help="%(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting for Rill")
    parser.add_argument("--log", type=Path, help="file for the service's log")
    return parser.parse_args()


def log_errors(log: bytes) -> Counter[str]:
    """The log's errors, by message, kind and place."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith(b'{"time"') else {}
        if entry.get("level") in ("error", "critical"):
            found[" ".join([entry["message"], str(entry.get("error", "")), *entry.get("frames", [])[-1:]])] += 1
        elif not entry:
            found[f"no JSON: {line[:200]!r}"] += 1
    return found


def engine(service: Service) -> int:
    """The engine's process id; 0 if there is none now."""
    with suppress(OSError, ValueError):
        return service.engine_pid()
    return 0


def memory(service: Service) -> dict[str, float]:
    """The processes' anonymous memory in MiB."""
    pids = {} if is_over(service) else {"front": service.pid, "engine": engine(service)}
    return {name: of_processes([pid])["Anonymous"] / MIB for name, pid in pids.items() if pid}


def is_over(service: Service) -> bool:
    return service.process.returncode is not None


def pauses(answers: list[Answer]) -> list[float]:
    """Seconds between successive tokens of one client, across its answers."""
    times = [time for answer in answers for time in answer.times]
    return [after - before for before, after in pairwise(times)]


def summary(name: str, answers: list[Answer]) -> str:
    """A summary of one turn of the neighbour."""
    gaps = pauses(answers)
    failed = Counter(answer.error[:60] for answer in answers if answer.error)
    what = f"{len(answers)} answers, {len(gaps) + 1} tokens, failed: {dict(failed) or 'none'}"
    if not gaps:
        return f"{name}: {what}."
    return f"{name}: {what}; pauses p99 {1000 * quantile(gaps, 0.99):.1f} ms, longest {1000 * max(gaps):.0f} ms."


async def trial(args: argparse.Namespace, log: Path) -> bool:
    """One whole run, with its report; returns whether it passed."""
    settings = SETTINGS | dict(setting.split("=", 1) for setting in args.set)
    n_said = log.stat().st_size if log.exists() else 0  # noqa: ASYNC240  # nothing else runs yet
    async with (
        running(log=log, **settings) as service,
        neighbours.start(service.url, [NEIGHBOUR], [ASK], "fuzz") as one,
    ):
        await one.turn(1.0)  # warm-up
        alone = await one.turn(ALONE_S)
        fuzz = Fuzz(service.port, await known(service), partial(engine, service), partial(is_over, service))
        before, began = memory(service), time.monotonic()
        await one.begin()
        await fuzz.run(args.seed, args.first, args.n, args.within_s)
        took_s, loaded = time.monotonic() - began, await one.end()
        status, after = service.process.returncode, memory(service)
        restarts = math.nan if is_over(service) else await service.metric(RESTARTS)
    said = log.read_bytes()[n_said:]  # noqa: ASYNC240  # nothing else runs any more
    faults = fuzz.faults + log_errors(said)
    print(*table(fuzz.statuses), *fuzz.reported, sep="\n")
    print(f"\n{fuzz.n_sent} requests in {took_s:.0f} s; faults: {dict(faults) or 'none'}.")
    print(summary("The neighbour, alone", alone), summary("During the fuzzing", loaded), sep="\n")
    longest_s, alone_s = max(pauses(loaded), default=math.inf), max(pauses(alone), default=math.inf)
    print(f"Longer than alone: {longest_s / alone_s:.1f} times the longest pause.")
    grown = ", ".join(f"{name} {before.get(name, 0.0):.1f} -> {size:.1f}" for name, size in after.items())
    print(f"MiB: {grown}; restarts of the engine: {restarts:.0f}; the service's exit: {status}.")
    print(f"Longest line of the log: {max(map(len, said.splitlines()), default=0)} bytes.")
    failed = [answer for answer in loaded if answer.error]
    return not (faults or failed or restarts or status is not None) and longest_s <= MOST_PAUSE_S


async def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as directory:
        return 0 if await trial(args, args.log or Path(directory) / "log") else 1


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(main()))
