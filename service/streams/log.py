"""A stream's event log: each event's bytes, encoded once, which of them readers may have, and which the store has."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from service.dialects import sse
from service.dialects.events import Dialect
from service.protocol.said import Said, text_of


class Listener(Protocol):
    """Called when the log has grown or the stream's phase has changed."""

    def wake(self) -> None: ...


class EventLog(list[bytes]):
    """The events in their order; an event's index is the number in its id."""

    __slots__ = (
        "_checksum",
        "_grown",
        "_wire_id",
        "is_durable",
        "n_bytes",
        "n_sent",
        "n_visible",
        "readers",
        "weights",
    )

    def __init__(self, id: str) -> None:
        super().__init__()
        self.weights: list[int] = []  # tokens in each event: what `pace` counts
        self.readers: list[Listener] = []
        self.n_visible = 0  # events that readers may have
        self.is_durable = False  # these are in the store; else these are all events
        self.n_bytes = 0  # of the events
        self.n_sent = 0  # events that some reader was sent
        self._grown: Callable[[], None] | None = None
        self._wire_id = id.encode()
        self._checksum = 0  # CRC-32 of the text so far: each event's id contains it

    def has(self, n: int, id: str) -> bool:
        """Whether event number n is logged, under this id."""
        return n < len(self) and sse.head(self[n]) == b"id: %b" % id.encode()

    def say(self, body: bytes, weight: int = 0, *, retry: bytes = b"") -> None:
        """Log an event with this body, unless it is empty; retry: the field before its id."""
        if body:
            self.add(retry + sse.block(self._wire_id, len(self), self._checksum, body), weight)

    def say_text(self, dialect: Dialect, said: str | Said, weight: int) -> None:
        """Log a delta of n = weight tokens."""
        self._checksum = zlib.crc32(text_of(said).encode(), self._checksum)
        self.say(dialect.delta(said), weight)

    def add(self, event: bytes, weight: int) -> None:
        """Log an event as it stands."""
        self.append(event)
        self.weights.append(weight)
        self.n_bytes += len(event)
        self._grow()
        if not self.is_durable:
            self.show()

    def close(self) -> None:
        """The stream has ended; no event follows."""
        self._grow()
        self.wake()

    def show(self) -> None:
        """Readers may have all events."""
        self.n_visible = len(self)
        self.wake()

    def wake(self) -> None:
        for reader in self.readers:
            reader.wake()

    # The store.

    def write_to(self, grown: Callable[[], None] | None) -> None:
        """From now on the events go to a store: `grown` is called for each, and the end, before readers may have it.
        None: not any more."""
        self._grown = grown

    def acknowledge(self, n: int) -> None:
        """The first n events are in the store; when these are all, the next ones wait for it again."""
        if n > self.n_visible:
            self.n_visible = n
            self.wake()
        if n == len(self):
            self.is_durable = True

    def go_ahead(self) -> None:
        """The store takes too long: readers get all events."""
        self.is_durable = False
        self.show()

    def take_back(self) -> int:
        """Discard the events that no reader has had. Returns the tokens in those that are left."""
        n = self.n_visible
        self.n_bytes -= sum(map(len, self[n:]))
        del self[n:], self.weights[n:]
        return sum(self.weights)

    def rewind(self) -> None:
        """The next event follows the last one that is here, wherever that was logged."""
        self._checksum = sse.checksum(self[-1]) if self else 0

    def _grow(self) -> None:
        if self._grown is not None:
            self._grown()

    def __repr__(self) -> str:
        return f"<EventLog {self.n_visible}/{len(self)} events visible, {len(self.readers)} readers>"
