"""One stream of this replica, how much of it the store has, and the next write for it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.dialects.events import Phase
from service.dialects.openai import Whole
from service.replication.records import End, Event, encode_end, encode_event
from service.replication.store import Write
from service.streams.stream import Stream


@dataclass(slots=True, eq=False)
class LoggedStream:
    """One stream of ours, and how much of it the store has."""

    stream: Stream
    epoch: int
    n_inherited: int  # events logged when we adopted it
    record: bytes
    key: str | None
    n_logged: int  # entries that the store has for certain: one an event, and one for the end
    has_record: bool
    is_sure: bool = True  # False: the store may have less, or another owner
    counted: tuple[int, int] = (0, 0)  # n events, and the tokens in the first n

    def n_tokens(self, n: int) -> int:
        """How many tokens the first n events hold, counted from the last call's n on."""
        start, total = self.counted if self.counted[0] <= n else (0, 0)
        self.counted = n, total + sum(self.stream.log.weights[start:n])
        return self.counted[1]

    @property
    def n_entries(self) -> int:
        """How many the stream has, with the last events and the end as one."""
        stream = self.stream
        return len(stream.log) if stream.n_before_end is None else stream.n_before_end + 1

    @property
    def is_due(self) -> bool:
        return self.n_logged < self.n_entries or not self.has_record


def next_write(copy: LoggedStream, room: int) -> Write:
    """The entries that the store lacks, at most `room` of them."""
    stream = copy.stream
    n_events = len(stream.log) if stream.n_before_end is None else stream.n_before_end
    end = min(n_events, copy.n_logged + room)
    used = copy.n_tokens(copy.n_logged)
    payloads = []
    for n in range(copy.n_logged, end):
        tokens = stream.tokens[used : used + stream.log.weights[n]]
        used += len(tokens)
        payloads.append(encode_event(stream.id, Event(stream.log[n], tokens, _phase(stream, n))))
    is_last = not stream.open and end == n_events
    if is_last:
        payloads.append(encode_end(stream.id, _end(stream)))
    return Write(
        id=stream.id,
        epoch=copy.epoch,
        first=copy.n_logged + 1,
        payloads=payloads,
        record=None if copy.has_record else copy.record,
        is_last=is_last,
        key=copy.key,
    )


def _phase(stream: Stream, n: int) -> Phase:
    """Its phase at event n, as far as an adopter has to know."""
    if stream.log.weights[n]:
        return Phase.ANSWERING
    return stream.phase if stream.open and n == len(stream.log) - 1 else Phase.THINKING


def _end(stream: Stream) -> End:
    assert stream.summary is not None and stream.n_before_end is not None
    end = End(stream.log[stream.n_before_end :], stream.outcome, stream.summary, stream.error)
    if isinstance(stream.dialect, Whole):
        return replace(end, text=stream.dialect.text, logprobs=stream.dialect.logprobs)
    return end
