"""The engine is repeatedly killed or stopped under 16 streams: what do their readers receive?

Failures are recorded: the last events of each failed stream, and each death of the engine that the trial did not cause.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from service.supervision.supervisor import STOPPED_S
from tests.events import Event, numbers, parse, text
from tests.running import Service, orders, running

N_STREAMS = 16
MAX_TOKENS = 300
N_LAST = 3  # events kept of a stream that failed
OURS = {signal.SIGKILL: "it died of SIGKILL", signal.SIGSTOP: "it was stopped (SIGSTOP)"}


@dataclass
class Tally:
    """The results of the streams of one kind of trial."""

    n_trials: int = 0
    n_streams: int = 0
    n_hit: int = 0  # streams that were running when the engine died
    n_lost: int = 0  # events not received
    n_repeated: int = 0
    n_changed: int = 0  # streams with another text than the undisturbed run's
    n_dropped: int = 0  # connections that broke
    n_failed: int = 0  # streams that ended in a failure
    recoveries_s: list[float] = field(default_factory=list)  # from the kill to the last stream's next event
    bounds_s: list[float] = field(default_factory=list)  # model load + prefill of the live tokens + 1 s
    notes: list[str] = field(default_factory=list)  # on failures


async def follow(response: aiohttp.ClientResponse, seen: list[tuple[float, int]]) -> tuple[bytes, bool]:
    """All bytes of a stream, and whether its connection broke; records (time, bytes so far) in `seen`."""
    raw = b""
    try:
        async for chunk in response.content.iter_any():
            raw += chunk
            seen.append((time.monotonic(), len(raw)))
    except aiohttp.ClientError:
        return raw, True
    return raw, False


def compare(tally: Tally, id: str, events: list[Event], whole: list[Event]) -> None:
    got = numbers(events, id)
    tally.n_lost += len(set(range(max(got, default=-1) + 1)) - set(got))
    tally.n_repeated += len(got) - len(set(got))
    if events[-1].name != "done":
        tally.n_failed += 1
        last = " ".join(f"[{event.name} {event.data[:200]}]" for event in events[-N_LAST:])
        tally.notes.append(f"trial {tally.n_trials}, stream {id[:8]}, {len(events)} events, the last: {last}")
    tally.n_changed += text(events) != text(whole)


async def trial(service: Service, number: signal.Signals, rng: random.Random, tally: Tally) -> None:
    asked: list[dict[str, Any]] = orders(N_STREAMS, 1000 * tally.n_trials, MAX_TOKENS)
    began = time.monotonic()
    undisturbed = await asyncio.gather(*[service.whole(**order) for order in asked])
    usual_s = time.monotonic() - began
    responses = await asyncio.gather(*[service.client.post("/stream", json=order) for order in asked])
    seen: list[list[tuple[float, int]]] = [[] for _ in responses]
    reading = [asyncio.create_task(follow(r, s)) for r, s in zip(responses, seen, strict=True)]
    await asyncio.sleep(rng.uniform(0.05, 0.6) * usual_s)
    hit = [not task.done() for task in reading]
    os.kill(service.engine_pid(), number)
    killed = time.monotonic()
    tally.n_trials += 1
    after = []
    for task, times, response, whole, was_hit in zip(reading, seen, responses, undisturbed, hit, strict=True):
        raw, dropped = await task
        compare(tally, response.headers["X-Stream-Id"], parse(raw), whole)
        tally.n_streams += 1
        tally.n_hit += was_hit
        tally.n_dropped += dropped
        # Bytes that were on their way when the engine died may arrive a little later.
        after += [min((at for at, _ in times if at > killed + 0.1), default=killed)] if was_hit else []
    await service.ready()
    if after:
        detect_s = STOPPED_S * 1.5 if number is signal.SIGSTOP else 0.0
        live_prefill_s = usual_s / 2  # at most all tokens are live, and prefill is faster than decoding
        tally.recoveries_s.append(max(after) - killed)
        tally.bounds_s.append(await service.metric("llm_model_load_seconds") + live_prefill_s + detect_s + 1)


async def trials(kv_type: str, number: signal.Signals, n: int, seed: int) -> Tally:
    """n trials, four per service."""
    rng, tally = random.Random(seed), Tally()
    settings = {"kv_type": kv_type, "max_waiting": "64"}
    while tally.n_trials < n:
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory) / "log"
            async with running(log=log, **settings) as service:
                for _ in range(min(4, n - tally.n_trials)):
                    await trial(service, number, rng, tally)
            tally.notes += [f"up to trial {tally.n_trials}: {death}" for death in other_deaths(log, OURS[number])]
    return tally


def other_deaths(log: Path, ours: str) -> Iterator[str]:
    """The reasons of the engine's deaths, with its last output, without those that the trial caused."""
    for line in log.read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("message") == "engine ended" and not entry["reason"].startswith(ours):
            yield " | ".join([entry["reason"], *entry.get("last_words", [])])


HEAD = (
    "| KV | what | trials | streams (hit) | lost | repeated | text changed | dropped sockets | failed "
    "| recovery p50, max | bound |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def row(kv_type: str, number: signal.Signals, t: Tally) -> str:
    recovery = sorted(t.recoveries_s)
    median, worst = (recovery[len(recovery) // 2], recovery[-1]) if recovery else (0.0, 0.0)
    kept = sum(r <= b for r, b in zip(t.recoveries_s, t.bounds_s, strict=True))
    return (
        f"| {kv_type} | {number.name} | {t.n_trials} | {t.n_streams} ({t.n_hit}) | {t.n_lost} | {t.n_repeated} "
        f"| {t.n_changed} | {t.n_dropped} | {t.n_failed} | {median:.2f} s, {worst:.2f} s "
        f"| kept {kept}/{len(recovery)} |"
    )
