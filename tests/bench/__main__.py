"""`make bench`: measures Rill and llama-server in turn on the same model, and prints a table of both.

make bench BENCH='--model MODEL.gguf --peer DIRECTORY --rounds 3 --json FILE --svg FILE'

DIRECTORY holds llama-server and llama-batched-bench, built from the llama.cpp that the engine is built from. Without
--peer only Rill is measured. Each round restarts each server. The peer runs with OpenMP's default wait policy and
with GOMP_SPINCOUNT=1000, as does llama-batched-bench, and the better result counts. A round with all rows takes about a
quarter of an hour with a 0.5B model on two cores; no single run takes longer than that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import orjson

from service.engine.host.resources import usable_cores
from tests.bench import measures, plot, servers
from tests.bench.figures import ENGINE, PEER, RILL, Figures
from tests.bench.load import Ask, Failed

ROWS = ("greedy", "seeded", "engine", "shared", "long", "pace")
SPINS = (servers.DEFAULT, "1000")
SEEDED = 0.8  # temperature
UNIFIED = "--kv-unified"  # else llama-server divides the context between its slots: no room for a long prompt


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=lambda name: Path(name).resolve(), required=True, help="a GGUF file")
    parser.add_argument("--peer", type=Path, help="directory of llama-server and llama-batched-bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS), help="rows to measure: %(default)s")
    parser.add_argument("--streams", default="1,8,32", help="numbers of concurrent streams: %(default)s")
    parser.add_argument("--n-seq", type=int, default=32, help="of both servers")
    parser.add_argument("--n-ctx", type=int, default=16384, help="context of both servers, of all streams together")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting for Rill")
    parser.add_argument("--spins", default=",".join(SPINS), help="GOMP_SPINCOUNTs to try the peer with: %(default)s")
    parser.add_argument("--readers", type=int, default=10, help="at reading speed, as many as the model serves")
    parser.add_argument("--places", type=int, default=4, help="n_seq of the readers' server: %(default)s")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--svg", type=Path, help="file for their plot")
    args = parser.parse_args()
    args.rows, args.spins = args.rows.split(","), args.spins.split(",")
    args.streams = [int(n) for n in args.streams.split(",")]
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    if "engine" in args.rows and args.peer is None:
        args.rows.remove("engine")
    return args


def measured_on_both(args: argparse.Namespace) -> Iterator[measures.Measure]:
    """The measurements of both servers that share one start of the server."""
    for n in args.streams:
        if "greedy" in args.rows:
            yield measures.tokens_per_s(n)
        if "seeded" in args.rows:
            yield measures.tokens_per_s(n, SEEDED)
    if "shared" in args.rows:
        yield measures.shared_prefix


def compared_with_engine(args: argparse.Namespace, engine_s: dict[int, float]) -> Iterator[measures.Measure]:
    """Rill's time for the same work that the engine was given."""
    for n, seconds in engine_s.items():
        yield measures.share_of_engine(n, seconds)
        if "seeded" in args.rows:
            yield measures.share_of_engine(n, seconds, SEEDED)


def paced(args: argparse.Namespace) -> list[measures.Measure]:
    paces = (measures.READING, None) if "pace" in args.rows else ()
    return [measures.readers_served(args.readers, n_tokens=64, pace=pace) for pace in paces]


def long(args: argparse.Namespace) -> list[measures.Measure]:
    return [measures.with_long_prompts] if "long" in args.rows else []


async def figures_of(
    server: AbstractAsyncContextManager[str], what: list[measures.Measure], salt: str
) -> dict[str, float]:
    """All measurements of one start of a server."""
    found: dict[str, float] = {}
    if what:
        async with server as url:
            await measures.warm_up(url)
            for measure in what:
                found |= await measure(url, salt)
                print(".", end="", file=sys.stderr, flush=True)
    return found


async def engine_s(args: argparse.Namespace, n_prompt: int) -> dict[int, float]:
    """Seconds of the engine alone, by number of streams: the better of its wait policies."""
    n_tokens, levels = Ask().n_tokens, {n: measures.n_waves(n) for n in args.streams}
    tries = [await servers.bare_engine(args.peer, args.model, n_prompt, n_tokens, levels, spin) for spin in args.spins]
    return {n: min(one[n] for one in tries) for n in levels}


async def prompt_tokens(args: argparse.Namespace) -> int:
    """How many tokens of this model a prompt's words are: the length of the prompts that the engine alone prefills."""
    async with rill(args) as url:
        return await measures.warm_up(url)


def rill(args: argparse.Namespace, n_seq: int | None = None) -> AbstractAsyncContextManager[str]:
    settings = dict(setting.split("=", 1) for setting in args.set)
    return servers.rill(args.model, n_seq or args.n_seq, args.n_ctx, settings)


async def round_of(args: argparse.Namespace, figures: Figures, n_prompt: int, salt: str) -> None:
    bare_s = await engine_s(args, n_prompt) if "engine" in args.rows else {}
    what = [*measured_on_both(args), *compared_with_engine(args, bare_s), *long(args)]
    found = await figures_of(rill(args), what, salt)
    figures.enter(RILL, found | await figures_of(rill(args, args.places), paced(args), salt))
    for n, seconds in bare_s.items():
        figures.enter(ENGINE, {measures.greedy(n): n * Ask().n_tokens / seconds})
    if args.peer is None:
        return
    tries = []
    for spin in args.spins:
        peer = servers.peer(args.peer, args.model, args.n_seq, args.n_ctx, spin)
        roomy = servers.peer(args.peer, args.model, args.n_seq, args.n_ctx, spin, UNIFIED)
        found = await figures_of(peer, list(measured_on_both(args)), salt)
        tries.append(found | await figures_of(roomy, long(args), salt))
    figures.enter(PEER, *tries)


def about(args: argparse.Namespace) -> dict[str, str]:
    """Machine, model and command; files and directories by name only, as their paths mean nothing elsewhere."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return {
        "machine": f"{cpu.partition(': ')[2]}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f} before",
        "model": f"{args.model.name}, {args.model.stat().st_size / 1e6:.0f} MB",
        "command": f"make bench BENCH='{' '.join(words)}'",
    }


async def main() -> None:
    args = arguments()
    figures = Figures(about(args))
    failed, n_prompt = "", await prompt_tokens(args)
    figures.about["model"] += f"; {Ask().n_words} words are {n_prompt} tokens"
    for round in range(args.rounds):
        try:
            await round_of(args, figures, n_prompt, f"round {round} of {os.getpid()}")
        except (Failed, servers.NotStarted, TimeoutError) as e:
            failed = f"bench: round {round + 1}: {str(e) or 'it took too long'}"
            break
    print(f"\n{figures.table()}")
    if failed:
        sys.exit(failed)
    if args.json:
        args.json.write_bytes(orjson.dumps(figures.json(), option=orjson.OPT_INDENT_2))
    if args.svg:
        args.svg.write_text(plot.svg(figures))


if __name__ == "__main__":
    asyncio.run(main())
