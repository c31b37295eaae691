"""What replicas share of a stream, as plain values and their bytes, and what a store does with them. No I/O in here.

A stream's log in the store is a row of entries, each at a Place: the epoch of the replica that wrote it (each owner
has a higher one than the last) and its number in the log. Event n is number n + 1; 0 is an owner's marker. The events
that end a stream are one entry, with what it amounted to: they are all there or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import orjson

from service import errors
from service.engine.protocol import Sampling, Submit
from service.events import Phase, Summary

GONE_S = 3600.0  # how long a store knows that there was a stream, after it can't be read any more


class StoreDown(Exception):
    """The store can't be reached, is too slow, or is full: whether it took the last writes is not known."""


class Place(NamedTuple):
    """Where an entry stands; (0, 0): before any."""

    epoch: int
    number: int


NOWHERE = Place(0, 0)
Entry = tuple[Place, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an open stream, the tokens in it, and where the stream stood."""

    event: bytes
    tokens: list[int]
    phase: Phase


@dataclass(frozen=True, slots=True)
class End:
    """The last events, and what it all amounted to. `text`: of an answer in one piece, which has no events."""

    events: list[bytes]
    outcome: str
    summary: Summary
    error: errors.RillError | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What another replica has to know of a stream beside its log. Times are seconds since the epoch."""

    submit: Submit
    dialect: dict[str, Any]  # see service/dialects.py
    tenant: str
    route: str
    grace_s: float
    arrived_at: float
    model: str  # digest of the model's file
    key: str | None = None  # where the store keeps its Idempotency-Key

    @property
    def has_prompt(self) -> bool:
        submit = self.submit
        return submit.messages is not None or submit.text is not None or submit.tokens is not None

    def without_prompt(self) -> Record:
        """For a store that may not hold what people ask."""
        return replace(self, submit=self.submit.without_prompt())


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What one stream has for the store in one go: entries from `first` on; `record` once, when it begins."""

    id: str
    epoch: int
    first: int
    payloads: list[bytes]
    record: bytes | None = None
    is_last: bool = False  # it has ended with these
    key: str | None = None  # its Idempotency-Key, which is of use as long as the stream is there


class Store(Protocol):
    """A place that outlives this process. Every method may raise StoreDown."""

    async def write(self, writes: list[Write]) -> list[Place]:
        """All in one go. Returns where each log ends now: beyond a Write's own epoch, it belongs to another owner."""

    async def ends(self, ids: list[str]) -> list[Place]: ...
    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None: ...
    async def record(self, id: str) -> bytes | None: ...
    async def is_gone(self, id: str) -> bool: ...
    async def drop(self, id: str, epoch: int, key: str | None) -> None: ...
    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]: ...
    async def expired(self) -> list[tuple[str, int, float]]: ...
    async def claim(self, id: str, epoch: int) -> bool: ...
    async def hand_over(self, owned: list[tuple[str, int]]) -> None: ...
    async def release(self, id: str, epoch: int) -> None: ...
    async def follow(self, after: Mapping[str, Place]) -> tuple[dict[str, list[Entry]], list[str]]: ...
    async def cancel(self, id: str) -> None: ...
    async def reserve(self, key: str, value: bytes) -> bytes | None: ...
    async def overwrite(self, key: str, value: bytes) -> None: ...
    async def free(self, key: str, value: bytes) -> None: ...
    async def note_readers(self, ids: list[str]) -> None: ...
    async def read_elsewhere(self, ids: list[str]) -> list[str]: ...
    async def close(self) -> None: ...


def encode_event(id: str, event: Event) -> bytes:
    """Its stream's id goes with it: whoever reads it checks that it is no other's."""
    return orjson.dumps([id, event.event.decode(), event.tokens, event.phase])


def encode_end(id: str, end: End) -> bytes:
    values = {
        "events": [event.decode() for event in end.events],
        "outcome": end.outcome,
        "summary": asdict(end.summary),
        "error": None if end.error is None else errors.as_dict(end.error),
        "text": end.text,
    }
    return orjson.dumps([id, values])


def decode(id: str, payload: bytes) -> Event | End:
    """What an entry of this stream holds. Raises ValueError for one that is another's, or nothing of ours."""
    try:
        whose, first, *rest = orjson.loads(payload)
        if whose != id:
            raise ValueError("an entry of another stream")
        if rest:
            return Event(first.encode(), rest[0], Phase(rest[1]))
        error = None if first["error"] is None else errors.from_dict(first["error"])
        events = [event.encode() for event in first["events"]]
        return End(events, first["outcome"], Summary(**first["summary"]), error, first["text"])
    except (TypeError, KeyError, AttributeError, IndexError) as e:
        raise ValueError(f"not an entry: {e}") from None


def encode_record(record: Record) -> bytes:
    return orjson.dumps(asdict(record))


def decode_record(body: bytes) -> Record:
    """Raises ValueError for what is no record."""
    try:
        values = orjson.loads(body)
        submit = values["submit"]
        values["submit"] = Submit(**{**submit, "sampling": Sampling.of(submit["sampling"])})
        return Record(**values)
    except (TypeError, KeyError) as e:
        raise ValueError(f"not a record: {e}") from None


def settled(entries: Iterable[Entry]) -> list[Entry]:
    """The log that these entries make: a later owner's entry stands for all from its number on. What comes after a gap
    does not count: its owner writes it again, or the next one does."""
    log: list[Entry] = []
    for entry in entries:
        n = entry[0].number - 1
        if 0 <= n <= len(log):
            log[n:] = [entry]
    return log
