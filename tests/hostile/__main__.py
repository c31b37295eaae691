"""`make hostile`: the effect of hostile clients, one kind at a time, on four well-behaved ones, as a table.

make hostile HOSTILE='--model MODEL.gguf --turns 5 --only grammar'

The service has its default settings, and API keys: each client has its own. For each kind the well-behaved clients are
timed alone, under attack and alone again, in turns; each turn is compared with those before and after it, and
the medians are printed. No attacker makes more requests a second than nginx allows. Hostile clients run at a lower
priority than the service, so that their requests do the harm, and not the CPU time that they use on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests import neighbours
from tests.bench.load import Ask
from tests.bench.memory import of_processes
from tests.hostile.attackers import Kind, attacking
from tests.hostile.attacks import KINDS
from tests.hostile.figures import HEAD, Row, Turn, verdict
from tests.neighbours import Neighbours
from tests.running import Service, running

SHORT, MIDDLING = Ask(n_words=12, n_tokens=64), Ask(n_words=100, n_tokens=64)
ASKS = [SHORT, MIDDLING] * 2
GOOD, BAD = [f"good-{i}" for i in range(4)], [f"bad-{i}" for i in range(4)]
NICE = 10
LEAD_S = 0.5  # of the attackers, before the well-behaved clients are timed
QUIET_S = 20.0  # for which the service may still process the attackers' requests
RESTARTS = "llm_engine_restarts_total"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a GGUF file; the starter if not given")
    parser.add_argument("--turns", type=int, default=3, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=2.5, help="duration of a turn: %(default)s")
    parser.add_argument("--attackers", type=int, default=4, help="of a kind, each with its own key: %(default)s")
    parser.add_argument("--only", default="", metavar="WORD", help="only kinds whose names contain this")
    parser.add_argument("--within-s", type=float, default=1200.0, help="no turn begins after it: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting for Rill")
    parser.add_argument("--log", type=Path, help="file for the service's log")
    return parser.parse_args()


class Trial:
    """One service, its well-behaved clients, and its log, read as it grows."""

    def __init__(self, service: Service, good: Neighbours, log: Path, seconds: float, n_ctx: int) -> None:
        self._service, self._good, self._log, self._seconds, self._n_ctx = service, good, log, seconds, n_ctx
        self._read = 0  # bytes of the log

    async def alone(self) -> Turn:
        return Turn.of(await self._good.turn(self._seconds))

    async def attacked(self, kind: Kind, row: Row, salt: str) -> Turn:
        """One turn under this kind of attack; its side effects are recorded in the row."""
        self._longest_line()
        restarts, before = await self._service.metric(RESTARTS), self._memory()
        async with attacking(kind, self._service.url, BAD, self._n_ctx, salt) as got:
            await asyncio.sleep(LEAD_S)
            turn = await self.alone()
            row.grown = max(row.grown, self._memory() - before)
        row.got += got
        await self._quiet()
        row.n_restarts += round(await self._service.metric(RESTARTS) - restarts)
        row.longest_line = max(row.longest_line, self._longest_line())
        return turn

    async def _quiet(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                while await self._service.metric("llm_streams"):  # noqa: ASYNC110  # only the service's metrics show it
                    await asyncio.sleep(0.05)

    def _longest_line(self) -> int:
        """The longest line logged since the last call."""
        new = self._log.read_bytes()[self._read :]
        self._read += len(new)
        return max(map(len, new.splitlines()), default=0)

    def _memory(self) -> int:
        return of_processes([self._service.pid])["Anonymous"]


async def trials(args: argparse.Namespace, trial: Trial) -> list[Row]:
    """A turn of every kind, repeatedly; returns the kinds that there was time for."""
    kinds = [
        replace(kind, n_attackers=min(kind.n_attackers, args.attackers)) for kind in KINDS if args.only in kind.name
    ]
    rows = {kind: Row(kind.name) for kind in kinds}
    end = time.monotonic() + args.within_s
    await trial.alone()  # warm-up
    before = await trial.alone()
    for turn in range(args.turns):
        for kind, row in rows.items():
            if time.monotonic() < end:
                attacked = await trial.attacked(kind, row, f"turn {turn}")
                after = await trial.alone()
                row.turns.append((before, attacked, after))
                before = after
    return [row for row in rows.values() if row.turns]


async def main() -> None:
    args = arguments()
    settings = {"model": args.model, "api_keys": ",".join(GOOD + BAD)} | dict(s.split("=", 1) for s in args.set)
    with tempfile.TemporaryDirectory() as directory:
        log = args.log or Path(directory) / "log"
        async with running(log=log, **settings) as service, neighbours.start(service.url, GOOD, ASKS, "good") as good:
            os.nice(NICE)
            headers = {"Authorization": f"Bearer {GOOD[0]}"}
            async with service.client.get("/v1/models", headers=headers) as response:
                n_ctx = (await response.json())["data"][0]["meta"]["n_ctx_seq"]
            rows = await trials(args, Trial(service, good, log, args.seconds, n_ctx))
    print(HEAD, *rows, "", verdict(rows), sep="\n")


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients log the faults caused on purpose
    asyncio.run(main())
