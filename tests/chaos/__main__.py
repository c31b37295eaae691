"""`make chaos`: trials that would take too long for the tests, and a table of what they came to."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from tests.chaos import cuts, engine, readers


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of the engine, under 16 streams")
    parser.add_argument("--stops", type=int, default=10, help="SIGSTOPs of the engine")
    parser.add_argument("--cuts", type=int, default=1000, help="of connections, for each client")
    parser.add_argument("--stalled", type=int, default=500, help="readers that stop reading")
    parser.add_argument("--live", type=int, default=50, help="streams that are read beside them")
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
    print("\n" + readers.HEAD, flush=True)
    if args.stalled:
        async for line in readers.trials(args.stalled, args.live):
            print(line, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
