"""`make chaos`: trials that would take too long for the tests, and a table of what they came to."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from tests.chaos import cuts, engine, replicas, storm


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the engine, under 16 streams")
    parser.add_argument("--stops", type=int, default=10, help="SIGSTOPs of the engine")
    parser.add_argument("--cuts", type=int, default=1000, help="of connections, for each client")
    parser.add_argument("--streams", type=int, default=300, help="at three ill-treated replicas; half an hour at most")
    parser.add_argument("--together", type=int, default=60, help="streams while a replica and Redis die, as long")
    parser.add_argument("--storm", type=int, default=1000, help="readers that leave; 10 minutes at most")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # clients complain of what we do to them
    print(engine.HEAD, flush=True)
    for kv_type, number, n in (
        ("bf16", signal.SIGKILL, args.kills),
        ("bf16", signal.SIGSTOP, args.stops),
        ("f16", signal.SIGKILL, args.kills // 5),
    ):
        if n:
            print(engine.row(kv_type, number, await engine.trials(kv_type, number, n, args.seed)), flush=True)
    print("\n" + cuts.HEAD, flush=True)
    if args.cuts:
        async for line in cuts.trials(args.cuts, args.seed):
            print(line, flush=True)
    if args.streams or args.together:
        async for line in replicas.trials(args.streams, args.together, args.seed):
            print(line, flush=True)
    if args.storm:
        async for line in storm.trials(args.storm, args.seed):
            print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
