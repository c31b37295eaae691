"""Following other replicas' streams: one loop waits for all their event logs at once and feeds them to local Streams.

A followed stream is read like any other. Its events are never changed: a log with a different event under an id that
is here already is a conflict, and the stream's readers must reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from service.dialects.openai import Whole
from service.dialects.sse import head
from service.logs import where
from service.replication.records import Entry, Event, LogPosition, decode
from service.replication.store import StoreDown
from service.streams.stream import Stream

log = logging.getLogger("service.follower")

PAUSE_S = 0.2  # after the store did not answer


News = tuple[dict[str, list[Entry]], list[str]]  # entries by stream, and the streams to be cancelled


class FollowerStore(Protocol):
    """What is asked of the store. It may raise StoreDown."""

    async def follow(self, after: Mapping[str, LogPosition], /) -> News: ...


class FollowerListener(Protocol):
    """Knows which streams are followed, and is called when that changes."""

    def followed(self, id: str, /) -> Stream | None: ...
    def ended(self, stream: Stream, /) -> None: ...
    def contradicted(self, stream: Stream, /) -> None: ...
    def cancelled(self, id: str, /) -> None: ...


class Follower:
    """`add` a stream with the log position up to which it is here; `run` does the rest, while it is followed.

    `clock`: see registry.Streams.
    """

    def __init__(self, *, store: FollowerStore, sink: FollowerListener, clock: Callable[[], float]) -> None:
        self.failed_at = 0.0  # when the store last failed (the loop's time)
        self._places: dict[str, LogPosition] = {}
        self._store = store
        self._sink = sink
        self._clock = clock
        self._reading: asyncio.Task[News] | None = None

    def add(self, stream: Stream, place: LogPosition) -> None:
        self._places[stream.id] = place
        if self._reading is not None:
            self._reading.cancel()  # it waits for the others only

    def remove(self, id: str) -> None:
        self._places.pop(id, None)

    async def run(self) -> None:
        """Follow, for ever."""
        while True:
            self._places = {id: place for id, place in self._places.items() if self._sink.followed(id)}
            self._reading = asyncio.create_task(self._store.follow(dict(self._places)))
            try:
                await asyncio.wait([self._reading])
                if not self._reading.cancelled():
                    self._take(*self._reading.result())
            except Exception as e:
                if isinstance(e, StoreDown):
                    self.failed_at = asyncio.get_running_loop().time()
                else:
                    log.error("unexpected error in the follower", extra=where(e))
                await asyncio.sleep(PAUSE_S)
            finally:
                self._reading.cancel()

    def _take(self, news: dict[str, list[Entry]], cancels: list[str]) -> None:
        for id, entries in news.items():
            if id in self._places and (stream := self._sink.followed(id)):
                self._places[id] = entries[-1][0]
                self._feed(stream, entries)
        for id in cancels:
            self._sink.cancelled(id)

    def _feed(self, stream: Stream, entries: list[Entry]) -> None:
        for entry in entries:
            if not feed(stream, entry, self._clock()):
                self.remove(stream.id)
                self._sink.contradicted(stream)
                return
            if not stream.open:
                self.remove(stream.id)
                self._sink.ended(stream)
                return

    def __repr__(self) -> str:
        return f"<Follower of {len(self._places)} streams>"


def feed(stream: Stream, entry: Entry, now: float) -> bool:
    """Feed a logged entry to its stream; False: it contradicts what that holds."""
    (_, number), payload = entry
    n = number - 1
    if n < 0:  # a new owner's marker
        return True
    try:
        said = decode(stream.id, payload)
    except ValueError as e:
        log.error("invalid log entry of this stream", extra={"stream": stream.id[:8], "reason": str(e)})
        return False
    events = [said.event] if isinstance(said, Event) else said.events
    known = stream.log[n : n + len(events)]
    if n > len(stream.log) or [head(e) for e in known] != [head(e) for e in events[: len(known)]]:
        return False
    if isinstance(said, Event):
        if not known:
            stream.copy(said.event, said.tokens, said.phase)
        return True
    if len(stream.log) > n + len(events):
        return False
    if isinstance(stream.dialect, Whole) and stream.open:
        stream.dialect.restore(said.text, said.logprobs)
    stream.copy_end(events[len(known) :], said.outcome, said.summary, said.error, now)
    stream.log.is_durable = True
    return True
