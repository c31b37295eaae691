"""Readers that stop reading while others read: how are the latter delayed, and how much is buffered for the former?

Two cores can't run five hundred generations at once. So the stalled readers share a few streams that have
ended with logs that exceed all buffers on the way: each is in the middle of a write that does not complete, and the
engine has the same work with and without them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.events import Event, parse
from tests.running import Service, orders, running, stall

N_STREAMS = 10  # shared by the stalled readers
N_ROUNDS = 5
LIVE_TOKENS = 300
SETTLE_S = 2.0  # until every stalled reader's buffers are full
CARRIER = {"messages": [{"role": "user", "content": "a fox"}], "stream": True, "ignore_eos": True, "max_tokens": 900}
TIMEOUT_S = 2  # RILL_WRITE_TIMEOUT_S of the trial that waits for it


@dataclass
class Tally:
    """Milliseconds of the live readers' gaps, a value per round; bytes for each stalled reader."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    p50_stalled: list[float] = field(default_factory=list)
    p99_stalled: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)  # of the front: other processes do not change it
    cpu_s_stalled: list[float] = field(default_factory=list)
    own_bytes: float = 0.0
    kernel_bytes: float = 0.0


async def gaps_ms(service: Service, n: int, salt: int) -> list[float]:
    """The gaps between two deltas of a stream, over n concurrent streams."""
    gaps: list[float] = []

    async def read(order: dict[str, object]) -> None:
        async with service.client.post("/stream", json=order) as response:
            before = 0.0
            async for chunk in response.content.iter_any():
                now = time.perf_counter()
                for _ in range(chunk.count(b'{"text"')):
                    if before:
                        gaps.append(1000 * (now - before))
                    before = now

    await asyncio.gather(*map(read, orders(n, salt, LIVE_TOKENS)))
    return sorted(gaps)


async def carriers(service: Service, n: int) -> dict[str, list[Event]]:
    """Ended streams and their events, by id."""

    async def one(seed: int) -> tuple[str, list[Event]]:
        headers = {"X-Resumable": "1"}
        async with service.client.post(
            "/v1/chat/completions", json=CARRIER | {"seed": seed}, headers=headers
        ) as response:
            return response.headers["X-Stream-Id"], parse(await response.read())

    return dict(await asyncio.gather(*map(one, range(n))))


async def n_readers(service: Service, n: int) -> float:
    """Seconds until the service has n readers."""
    began = time.monotonic()
    async with asyncio.timeout(60):
        while await service.metric("llm_readers") != n:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.05)
    return time.monotonic() - began


def own_bytes(service: Service) -> int:
    """The front process's resident memory."""
    status = Path(f"/proc/{service.pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def cpu_s(service: Service) -> float:
    """CPU seconds that the front's process has used so far (the engine is another process)."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kernel_bytes(service: Service) -> int:
    """The bytes in the kernel's send queues of the service's connections."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(line[4][:8], 16) for line in lines if line[1].endswith(f":{service.port:04X}"))


async def disturb(n_stalled: int, n_live: int) -> Tally:
    """Rounds of n_live streams, alternately alone and with n_stalled stalled readers."""
    tally = Tally()
    settings = {"n_seq": str(n_live), "n_ctx": str(1024 * N_STREAMS + 400 * n_live)}
    async with running(**settings, write_timeout_s="600", stream_ttl_s="3600", max_waiting="64") as service:
        ids = list(await carriers(service, N_STREAMS))
        await gaps_ms(service, n_live, 0)
        for round in range(1, N_ROUNDS + 1):
            began = cpu_s(service)
            alone = await gaps_ms(service, n_live, 1000 * round)
            tally.cpu_s.append(cpu_s(service) - began)
            before = own_bytes(service)
            sockets = await stall(service, ids, n_stalled)
            await asyncio.sleep(SETTLE_S)
            tally.own_bytes = max(tally.own_bytes, (own_bytes(service) - before) / n_stalled)
            tally.kernel_bytes = kernel_bytes(service) / n_stalled
            began = cpu_s(service)
            loaded = await gaps_ms(service, n_live, 1000 * round)
            tally.cpu_s_stalled.append(cpu_s(service) - began)
            assert await service.metric("llm_readers") == n_stalled
            for sock in sockets:
                sock.close()
            await n_readers(service, 0)
            for gaps, p50, p99 in ((alone, tally.p50, tally.p99), (loaded, tally.p50_stalled, tally.p99_stalled)):
                p50.append(gaps[len(gaps) // 2])
                p99.append(gaps[len(gaps) * 99 // 100])
    return tally


async def drop_stalled(n_stalled: int) -> tuple[float, int, int]:
    """Seconds until all stalled readers were dropped; the events that one of them had, and those it lost when it
    resumed."""
    async with running(write_timeout_s=str(TIMEOUT_S), n_seq=str(N_STREAMS), n_ctx=str(1024 * N_STREAMS)) as service:
        streams = await carriers(service, N_STREAMS)
        sockets = await stall(service, list(streams), n_stalled)
        took_s = await n_readers(service, 0)
        id, whole = next(iter(streams.items()))
        had = parse((await rest(sockets[0])).partition(b"\r\n\r\n")[2])
        headers = {"Last-Event-ID": had[-1].id, "Accept": "text/event-stream"}
        async with service.client.get(f"/v1/streams/{id}", headers=headers) as response:
            then = parse(await response.read())
        for sock in sockets:
            sock.close()
        return took_s, len(had), len(whole) - sum(a == b for a, b in zip(had + then, whole, strict=False))


async def rest(sock: socket.socket) -> bytes:
    """The rest of the bytes on a connection that was closed."""
    loop, raw = asyncio.get_running_loop(), b""
    try:
        while data := await loop.sock_recv(sock, 1 << 16):
            raw += data
    except ConnectionResetError:
        pass
    return raw


async def trials(n_stalled: int, n_live: int) -> AsyncIterator[str]:
    """The lines of the table."""
    t = await disturb(n_stalled, n_live)
    p50, p99, p50_stalled, p99_stalled = map(statistics.median, (t.p50, t.p99, t.p50_stalled, t.p99_stalled))
    ratios = [b / a for a, b in zip(t.p99, t.p99_stalled, strict=True)]
    yield (
        f"| {n_stalled} | {n_live} | {p50:.2f} / {p50_stalled:.2f} | {p99:.2f} / {p99_stalled:.2f} "
        f"| {p99_stalled / p99:.3f} ({min(ratios):.2f}-{max(ratios):.2f}) "
        f"| {statistics.median(t.cpu_s):.2f} / {statistics.median(t.cpu_s_stalled):.2f} "
        f"| {t.own_bytes / 1024:.0f} KiB | {t.kernel_bytes / 1024:.0f} KiB |"
    )
    took_s, n_had, n_lost = await drop_stalled(n_stalled)
    yield f"\nAll were dropped within {took_s:.1f} s (RILL_WRITE_TIMEOUT_S={TIMEOUT_S})."
    yield f"One had {n_had} events and resumed: {n_lost} lost."


HEAD = (
    "| stalled | live | ITL p50, ms: alone / with stalled readers | p99 | ratio of p99 (rounds) | front's CPU, s "
    "| memory each | in the kernel each |\n|---|---|---|---|---|---|---|---|"
)
