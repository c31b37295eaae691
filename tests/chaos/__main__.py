"""`make chaos`: trials that take too long for the tests, and a table of their results."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from collections.abc import AsyncIterator

from tests.chaos import answers, cuts, engine, readers, replicas, storm
from tests.chaos.busy import busy


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs of the engine, under 16 streams")
    parser.add_argument("--stops", type=int, default=10, help="SIGSTOPs of the engine")
    parser.add_argument("--busy", type=int, default=2, help="busy loops with which both are run again")
    parser.add_argument("--answers", type=int, default=100, help="kills under requests of OpenAI's routes")
    parser.add_argument("--cuts", type=int, default=1000, help="cuts of connections, for each client")
    parser.add_argument("--stalled", type=int, default=500, help="readers that stop reading")
    parser.add_argument("--live", type=int, default=50, help="streams that are read meanwhile")
    parser.add_argument("--streams", type=int, default=300, help="at three faulty replicas; half an hour at most")
    parser.add_argument("--together", type=int, default=60, help="streams while a replica and Redis die; likewise")
    parser.add_argument("--storm", type=int, default=1000, help="readers that leave; 10 minutes at most")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


async def lines(args: argparse.Namespace) -> AsyncIterator[str]:
    """The lines of the tables, as they become known."""
    kinds = (
        ("bf16", signal.SIGKILL, args.kills),
        ("bf16", signal.SIGSTOP, args.stops),
        ("f16", signal.SIGKILL, args.kills // 5),
    )
    for n_busy in dict.fromkeys([0, args.busy]) if any(n for _, _, n in kinds) else []:
        yield f"\nNext to {n_busy} busy processes:\n" if n_busy else "Quiet:\n"
        yield engine.HEAD
        notes: list[str] = []
        async with busy(n_busy):
            for kv_type, number, n in kinds:
                if n:
                    tally = await engine.trials(kv_type, number, n, args.seed)
                    yield engine.row(kv_type, number, tally)
                    notes += [f"{kv_type}, {number.name}, {note}" for note in tally.notes]
        for note in notes:
            yield f"  {note}"
    if args.answers:
        yield ""
        async for line in answers.trials(args.answers, args.seed):
            yield line
    if args.cuts:
        yield "\n" + cuts.HEAD
        async for line in cuts.trials(args.cuts, args.seed):
            yield line
    if args.stalled:
        yield "\n" + readers.HEAD
        async for line in readers.trials(args.stalled, args.live):
            yield line
    if args.streams or args.together:
        async for line in replicas.trials(args.streams, args.together, args.seed):
            yield line
    if args.storm:
        async for line in storm.trials(args.storm, args.seed):
            yield line


async def main() -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients log the faults caused on purpose
    async for line in lines(arguments()):
        print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
