"""A reader that reconnects until its stream has ended, as README's client does; and a summary of many readers."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.events import Event, parse, text

RETRY_S = 2.0  # README's client waits this long after a refusal; Retry-After is about the same


@dataclass
class Reading:
    """What one reader received of one stream."""

    events: list[Event] = field(default_factory=list)
    n_openings: int = 0
    longest_pause_s: float = 0.0  # between two events

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1].name in ("done", "failure")

    @property
    def failure(self) -> str | None:
        """The failure's code, if the stream ended with one."""
        last = self.events[-1] if self.events else None
        return str(last.json()["error"]["code"]) if last is not None and last.name == "failure" else None

    @property
    def stream(self) -> str:
        """The stream that the first event names."""
        return self.events[0].id.partition(".")[0]


async def read(client: aiohttp.ClientSession, url: str, fields: dict[str, Any], reading: Reading) -> None:
    """GET /stream with these fields (among them `key`), reconnecting after the last complete event until the stream has
    ended."""
    last_at = time.monotonic()
    while not reading.has_ended:
        if reading.n_openings:
            await asyncio.sleep(RETRY_S)
        reading.n_openings += 1
        headers = {"Last-Event-ID": reading.events[-1].id} if reading.events else {}
        raw = b""
        with contextlib.suppress(aiohttp.ClientError):
            async with client.get(url + "/stream", params=fields, headers=headers) as response:
                if response.status != 200:  # for an EventSource, whatever the body says
                    continue
                async for chunk in response.content.iter_any():
                    whole, end, raw = (raw + chunk).rpartition(b"\n\n")
                    if events := parse(whole + end):
                        reading.longest_pause_s = max(reading.longest_pause_s, time.monotonic() - last_at)
                        last_at = time.monotonic()
                        reading.events += events


@dataclass
class Account:
    """The results of many readings."""

    n_streams: int = 0
    n_cut: int = 0  # reconnections
    n_lost: int = 0  # events
    n_repeated: int = 0
    n_mixed: int = 0  # events that name another stream than the reader's first
    n_changed: int = 0  # streams with another text than the undisturbed run's, or a checksum of another text in an id
    n_unended: int = 0  # streams without done or failure at the time limit
    failures: Counter[str] = field(default_factory=Counter)  # streams by the code of their failure
    longest_pause_s: float = 0.0

    def enter(self, reading: Reading, whole: str) -> None:
        """Adds one reading; `whole` is the undisturbed text."""
        self.n_streams += 1
        self.n_cut += max(0, reading.n_openings - 1)
        self.n_unended += not reading.has_ended
        self.longest_pause_s = max(self.longest_pause_s, reading.longest_pause_s)
        if reading.failure is not None:
            self.failures[reading.failure] += 1
        own = [e for e in reading.events if e.name != "failure"]  # a failure outside the log has no event id
        ids = [e.id.split(".") for e in own]
        self.n_mixed += sum(stream != reading.stream for stream, _, _ in ids)
        numbers = [int(number) for _, number, _ in ids]
        self.n_lost += len(set(range(max(numbers, default=-1) + 1)) - set(numbers))
        self.n_repeated += len(numbers) - len(set(numbers))
        said = text(own)
        is_right = said == whole if reading.failure is None and reading.has_ended else whole.startswith(said)
        self.n_changed += not (is_right and all(_fits(own)))

    @property
    def is_correct(self) -> bool:
        """Every stream ended with done, and every reader has each event once and no other."""
        return self == Account(self.n_streams, self.n_cut, longest_pause_s=self.longest_pause_s)

    def row(self, what: str, *more: object) -> str:
        failed = ", ".join(f"{n} {code}" for code, n in sorted(self.failures.items())) or "0"
        cells = (self.n_streams, self.n_cut, self.n_lost, self.n_repeated, self.n_mixed, self.n_changed, self.n_unended)
        return "| " + " | ".join(map(str, (what, *cells, failed, f"{self.longest_pause_s:.1f} s", *more))) + " |"


def head(what: str, *more: str) -> str:
    """The heads of such rows."""
    cells = (what, "streams", "readers cut", "events lost", "repeated", "mixed", "text changed", "not ended")
    names = (*cells, "ended in failure", "longest pause", *more)
    return "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|"


def _fits(events: list[Event]) -> list[bool]:
    """For each event whether the checksum (CRC-32) in its id is that of the text so far."""
    checksum, fits = 0, []
    for event in events:
        if event.name == "message":
            checksum = zlib.crc32(event.json()["text"].encode(), checksum)
        fits.append(event.id.endswith(f".{checksum:08x}"))
    return fits
