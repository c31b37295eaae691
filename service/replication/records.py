"""What replicas share of a stream: plain values and their encoding. No I/O in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from service import errors
from service.dialects.events import Phase, Summary
from service.protocol.constraints import NO_CONSTRAINTS
from service.protocol.frames import Submit
from service.protocol.prompting import USUAL_PROMPTING
from service.protocol.tooling import NO_TOOLING


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
    """The last events, and the stream's summary. `text` and `logprobs` (JSON): of an answer in one piece, which has no
    events."""

    events: list[bytes]
    outcome: str
    summary: Summary
    error: errors.RillError | None = None
    text: str = ""
    logprobs: bytes = b""


class Record(msgspec.Struct, frozen=True, kw_only=True):
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


class _End(msgspec.Struct, frozen=True):
    """An End as it is stored."""

    events: list[str]
    outcome: str
    summary: Summary
    error: dict[str, Any] | None  # see errors.as_dict
    text: str
    logprobs: msgspec.Raw | UnsetType = UNSET


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it is stored: `[id, event, tokens, phase]`, or `[id, end]`."""

    id: str
    said: str | _End
    tokens: list[int] = []
    phase: Phase | None = None  # of an event, always


# Replicas of two versions read each other's entries and records: no field is renamed or left out. What a later version
# adds is ignored, but for a Submit's fields: without them another text would come. Those of LATER are left out at their
# defaults, so that the version before reads a request that it knows.
LATER: dict[str, object] = {
    "logprobs": None,
    "echo": False,
    "prompting": USUAL_PROMPTING,
    "constraints": NO_CONSTRAINTS,
    "structure": None,
    "tooling": NO_TOOLING,
}
_encode = msgspec.json.Encoder().encode
_entries, _records = msgspec.json.Decoder(_Entry), msgspec.json.Decoder(Record)


def encode_event(id: str, event: Event) -> bytes:
    """Its stream's id is included: `decode` checks that it is the expected one."""
    return _encode((id, event.event.decode(), event.tokens, event.phase))


def encode_end(id: str, end: End) -> bytes:
    error = None if end.error is None else errors.as_dict(end.error)
    events, logprobs = [event.decode() for event in end.events], msgspec.Raw(end.logprobs) if end.logprobs else UNSET
    return _encode((id, _End(events, end.outcome, end.summary, error, end.text, logprobs)))


def decode(id: str, payload: bytes) -> Event | End:
    """What an entry of this stream holds. Raises ValueError for another stream's entry, or an invalid one."""
    entry = _entries.decode(payload)
    if entry.id != id:
        raise ValueError("an entry of another stream")
    said = entry.said
    if isinstance(said, _End):
        try:
            error = None if said.error is None else errors.from_dict(said.error)
        except KeyError as e:
            raise ValueError(f"not an error: {e}") from None
        events, logprobs = [event.encode() for event in said.events], bytes(said.logprobs or b"")
        return End(events, said.outcome, said.summary, error, said.text, logprobs)
    if entry.phase is None:
        raise ValueError("an event without its phase")
    return Event(said.encode(), entry.tokens, entry.phase)


def encode_record(record: Record) -> bytes:
    submit = {name: value for name, value in asdict(record.submit).items() if value != LATER.get(name, UNSET)}
    return _encode(asdict(record) | {"submit": submit})  # without the tag that it has as a frame


def decode_record(body: bytes) -> Record:
    """Raises ValueError for what is no record."""
    return _records.decode(body)


def reserved_by(id: str) -> bytes:
    """The prefix of the value of a key reserved for this stream: a JSON list, its id first."""
    return _encode([id])[:-1]


def settled(entries: Iterable[Entry]) -> list[Entry]:
    """The log that these entries make: a later owner's entry replaces all from its number on. Entries after a gap do
    not count: their owner, or the next one, writes them again."""
    log: list[Entry] = []
    for entry in entries:
        n = entry[0].number - 1
        if 0 <= n <= len(log):
            log[n:] = [entry]
    return log
