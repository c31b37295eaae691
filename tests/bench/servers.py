"""The servers that are measured: Rill, llama-server as its peer, and llama-batched-bench, the engine alone."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import mean

import aiohttp
import orjson

from service.engine.host.resources import usable_cores
from tests.compose.stack import free_port
from tests.running import running

START_S = 300.0  # maximum time to load a model
BENCH_S = 600.0
CELLS = 256  # llama.cpp makes each sequence's part of the context a multiple of it; some versions round down
DEFAULT = "default"  # OpenMP's default wait policy: threads spin for an unspecified time


class NotStarted(Exception):
    """A program that did not start; the message has the end of its output."""


@asynccontextmanager
async def rill(model: Path, n_seq: int, n_ctx: int, settings: dict[str, str]) -> AsyncIterator[str]:
    """The URL of a Rill that serves the model."""
    async with running(**{"model": str(model), "n_seq": str(n_seq), "n_ctx": str(n_ctx)} | settings) as service:
        yield service.url


@asynccontextmanager
async def peer(programs: Path, model: Path, n_seq: int, n_ctx: int, spin: str, *more: str) -> AsyncIterator[str]:
    """The URL of a llama-server that serves the model; `spin` is GOMP_SPINCOUNT."""
    port = free_port()
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *(programs / "llama-server", "-m", model, "-np", str(n_seq), "-c", str(n_ctx)),
            *("-t", str(usable_cores()), "--host", "127.0.0.1", "--port", str(port), "--no-slots", *more),
            stdout=said,
            stderr=said,
            env=environment(spin),
        )
        url = f"http://127.0.0.1:{port}"
        try:
            async with asyncio.timeout(START_S), aiohttp.ClientSession(url) as client:
                while not await healthy(client):
                    if process.returncode is not None:
                        said.seek(0)
                        raise NotStarted(f"llama-server: {said.read().decode(errors='replace')[-1000:]}")
                    await asyncio.sleep(0.05)  # another process: there is nothing to wait on
            yield url
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def healthy(client: aiohttp.ClientSession) -> bool:
    with suppress(aiohttp.ClientError):
        async with client.get("/health") as response:
            return response.status == 200
    return False


async def bare_engine(
    programs: Path, model: Path, n_prompt: int, n_tokens: int, levels: dict[int, int], spin: str
) -> dict[int, float]:
    """Seconds that the engine alone takes for n streams of n_prompt + n_tokens tokens. `levels` has how often each
    number of streams is run, and the mean counts."""
    tries = [str(n_streams) for n_streams, n in levels.items() for _ in range(n)]
    tries.append(str(min(levels)))  # the program may exit before it writes its last line: a spare one
    n_each = -(-(n_prompt + n_tokens) // CELLS) * CELLS
    process = await asyncio.create_subprocess_exec(
        *(programs / "llama-batched-bench", "-m", model, "-c", str(max(levels) * n_each)),
        *("-npp", str(n_prompt), "-ntg", str(n_tokens), "-npl", ",".join(tries), "-t", str(usable_cores())),
        *("--output-format", "jsonl"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(spin),
    )
    try:
        async with asyncio.timeout(BENCH_S):
            said, complained = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    found = seconds(said)
    if process.returncode or set(levels) - set(found):
        raise NotStarted(f"llama-batched-bench: {complained.decode(errors='replace')[-1000:]}")
    return found


def seconds(said: bytes) -> dict[int, float]:
    """The results in llama-batched-bench's JSON lines, by number of streams."""
    found: dict[int, list[float]] = defaultdict(list)
    for line in said.splitlines():
        if line.startswith(b'{"n_kv_max"'):
            result = orjson.loads(line)
            found[result["pl"]].append(result["t"])
    return {n_streams: mean(times) for n_streams, times in found.items()}


def environment(spin: str) -> dict[str, str]:
    """This process's environment, without its OpenMP variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    return kept if spin == DEFAULT else kept | {"GOMP_SPINCOUNT": spin}
