"""A stream's one end at this replica: its role in the table, its idempotency key, and the observer's call."""

from __future__ import annotations

from typing import Protocol

from service.errors import Refused
from service.streams.idempotency import Keys
from service.streams.stream import Stream
from service.streams.table import StreamTable


class EndingObserver(Protocol):
    """What the metrics observe."""

    def closed(self, stream: Stream, /) -> None: ...


class Endings:
    """`ended` is called once for each stream that was made here, whatever ended it."""

    def __init__(self, *, table: StreamTable, keys: Keys, observer: EndingObserver) -> None:
        self._table, self._keys, self._observer = table, keys, observer

    def ended(self, stream: Stream) -> None:
        """It is kept to be read, unless no client has its id; a key for which nothing ran can be used again."""
        if not stream.accepted or came_to_nothing(stream):
            self._keys.forget(stream.id)
        self._table.move(stream, "end" if stream.accepted else "drop")
        self._observer.closed(stream)


def came_to_nothing(stream: Stream) -> bool:
    """It was refused before anything ran: a retry with its key starts a new stream."""
    return isinstance(stream.error, Refused) and not stream.tokens
