"""What replicas share of a stream: plain values and their encoding. No I/O in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import orjson

from service import errors
from service.dialects.events import Phase, Summary
from service.protocol.frames import Submit
from service.protocol.sampling import Sampling


class LogPosition(NamedTuple):
    """An entry's position; (0, 0): before any."""

    epoch: int
    number: int


NOWHERE = LogPosition(0, 0)


Entry = tuple[LogPosition, bytes]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an open stream, its tokens, and the stream's phase then."""

    event: bytes
    tokens: list[int]
    phase: Phase


@dataclass(frozen=True, slots=True)
class End:
    """The last events, and the stream's summary. `text`: of an answer in one piece, which has no events."""

    events: list[bytes]
    outcome: str
    summary: Summary
    error: errors.RillError | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What another replica needs of a stream apart from its log. Times are seconds since the epoch."""

    submit: Submit
    dialect: dict[str, Any]  # see dialects/codec.py
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
        """For a store that may not hold prompts."""
        return replace(self, submit=self.submit.without_prompt())


def encode_event(id: str, event: Event) -> bytes:
    """Its stream's id is included: `decode` checks that it is the expected one."""
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
    """What an entry of this stream holds. Raises ValueError for another stream's entry, or an invalid one."""
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


def reserved_by(id: str) -> bytes:
    """The prefix of the value of a key reserved for this stream: a JSON list, its id first."""
    return orjson.dumps([id])[:-1]


def settled(entries: Iterable[Entry]) -> list[Entry]:
    """The log that these entries make: a later owner's entry replaces all from its number on. Entries after a gap do
    not count: their owner, or the next one, writes them again."""
    log: list[Entry] = []
    for entry in entries:
        n = entry[0].number - 1
        if 0 <= n <= len(log):
            log[n:] = [entry]
    return log
