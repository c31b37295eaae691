"""This replica's own streams into the store: one write at a time, with all that has come since the last one.

Readers wait for a write's answer up to log_wait_s; then they get what there is, and the streams are not durable until
the store has caught up. Not so while another replica may own them, as after a standstill of this process: what readers
got then, nobody would have logged. What is to be written is never queued: each stream's log in memory is the queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.events import Phase
from service.log import where
from service.openai import Whole
from service.store import End, Event, Place, Store, StoreDown, Write, encode_end, encode_event
from service.streams import Stream

log = logging.getLogger("service.writer")

MAX_ENTRIES = 2000  # of one write: a few hundred kilobytes
MAX_ENDED = 1000  # ended streams that wait for a store that is down
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # between attempts while the store is down


class Observer(Protocol):
    """What the metrics want to know."""

    def acknowledged(self, wait_s: float, /) -> None: ...
    def fenced(self) -> None: ...


@dataclass(slots=True, eq=False)
class Copy:
    """One stream of ours, and how much of it the store has."""

    stream: Stream
    epoch: int
    n_inherited: int  # events that were there when we took it over
    record: bytes
    key: str | None
    n_logged: int  # entries that the store has for certain: one an event, and one for the end
    has_record: bool
    is_sure: bool = True  # False: the store may have less, or have given it away
    counted: tuple[int, int] = (0, 0)  # of the first so many events, so many tokens

    def n_tokens(self, n: int) -> int:
        """How many tokens the first n events hold, counted on from where it was last asked."""
        start, total = self.counted if self.counted[0] <= n else (0, 0)
        self.counted = n, total + sum(self.stream.weights[start:n])
        return self.counted[1]

    @property
    def n_entries(self) -> int:
        """How many there are to be had, the last events and the end as one."""
        stream = self.stream
        return len(stream.log) if stream.n_before_end is None else stream.n_before_end + 1

    @property
    def is_due(self) -> bool:
        return self.n_logged < self.n_entries or not self.has_record


class Writer:
    """`begin` a stream, then call `grown` for each event; `run` does the rest. `lost(copy, place)` is told of streams
    that the store has given to another replica."""

    def __init__(
        self, *, store: Store, log_wait_s: float, observer: Observer, lost: Callable[[Copy, Place], None]
    ) -> None:
        self.copies: dict[str, Copy] = {}
        self.is_behind = False  # readers do not wait for the store at present
        self.failed_at = 0.0  # when the store last failed us (the loop's time)
        self.held_until = math.inf  # before this nobody else can have taken our streams over (the loop's time)
        self._store = store
        self._log_wait_s = log_wait_s
        self._observer = observer
        self._lost = lost
        self._work = asyncio.Event()
        self._writing = asyncio.Lock()
        self._grown_at: float | None = None  # when the first event came that no write has taken along
        self._timer: asyncio.TimerHandle

    @property
    def n_not_durable(self) -> int:
        return sum(not copy.stream.durable for copy in self.copies.values())

    def begin(self, stream: Stream, record: bytes, key: str | None = None) -> None:
        """A new stream: from its first event on it goes to the store."""
        self._add(Copy(stream, 1, 0, record, key, n_logged=0, has_record=False))
        stream.durable = not self.is_behind

    def inherit(self, stream: Stream, epoch: int, record: bytes, key: str | None, *, n_logged: int) -> None:
        """One that we have claimed, with so many entries in the store: our own log may be ahead of them."""
        self._add(Copy(stream, epoch, n_logged, record, key, n_logged, has_record=True))
        stream.durable = not self.is_behind

    def grown(self, stream: Stream) -> None:
        """It has an event more, or has ended. Called before readers may have that."""
        if self._grown_at is None:
            self._grown_at = asyncio.get_running_loop().time()
        if not stream.durable and not self._holds:
            stream.durable = True  # its readers wait again
        self._work.set()

    def doubt(self, id: str) -> None:
        """Ask the store what it has of this one before anything else is written."""
        if copy := self.copies.get(id):
            copy.is_sure = False
            self._work.set()

    async def run(self) -> None:
        """Write, for ever."""
        n_failed = 0
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self.flush()
                n_failed = 0
            except Exception as e:
                if not isinstance(e, StoreDown):  # a bug of ours: readers must not pay for it
                    log.error("unexpected error in the writer", extra=where(e))
                self._fail(e, is_news=n_failed == 0)
                await asyncio.sleep(PAUSES_S[min(n_failed, len(PAUSES_S) - 1)])
                n_failed += 1

    async def flush(self) -> None:
        """One write of all that is due, within MAX_ENTRIES. Raises StoreDown."""
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        since, self._grown_at = self._grown_at or loop.time(), None
        self._timer = loop.call_at(since + self._log_wait_s, self._waited)
        try:
            await self._settle()
            await self._drop_unspoken()
            copies, writes = self._due()
            if writes:
                for copy, place in zip(copies, await self._store.write(writes), strict=True):
                    copy.has_record = True
                    self._take(copy, place)
                self._observer.acknowledged(loop.time() - since)
        finally:
            self._timer.cancel()
        self.is_behind = any(not copy.stream.durable for copy in self.copies.values())
        if any(copy.is_due or not copy.is_sure for copy in self.copies.values()):
            self._work.set()

    async def _settle(self) -> None:
        """Learn what the store has of the streams that we are not sure of."""
        unsure = [copy for copy in self.copies.values() if not copy.is_sure]
        if unsure:
            for copy, place in zip(unsure, await self._store.ends([c.stream.id for c in unsure]), strict=True):
                copy.is_sure = True
                copy.has_record = False  # nor of the record and the lease
                if place.epoch < copy.epoch:  # it has lost what we wrote, our marker too
                    copy.n_logged = min(copy.n_inherited, place.number)
                elif place.epoch == copy.epoch:
                    copy.n_logged = min(copy.n_logged, place.number)
                self._take(copy, place)

    async def _drop_unspoken(self) -> None:
        """Forget the streams that ended before the engine took them: nobody was told of them."""
        for copy in [c for c in self.copies.values() if not c.stream.open and not c.stream.accepted]:
            await self._store.drop(copy.stream.id, copy.epoch, copy.key)
            self.copies.pop(copy.stream.id, None)

    def _due(self) -> tuple[list[Copy], list[Write]]:
        copies, writes, room = [], [], MAX_ENTRIES
        for copy in list(self.copies.values()):
            if room > 0 and copy.is_due:
                write = _write(copy, room)
                room -= len(write.payloads)
                copies.append(copy)
                writes.append(write)
        return copies, writes

    def _take(self, copy: Copy, place: Place) -> None:
        """The store's log of this stream ends at this place."""
        if place.epoch > copy.epoch:
            self.copies.pop(copy.stream.id, None)
            self._observer.fenced()
            self._lost(copy, place)
            return
        copy.n_logged = max(copy.n_logged, place.number) if place.epoch == copy.epoch else copy.n_logged
        stream = copy.stream
        is_whole = stream.n_before_end is not None and copy.n_logged > stream.n_before_end
        stream.acknowledge(len(stream.log) if is_whole else copy.n_logged)
        if is_whole:
            self.copies.pop(stream.id, None)

    def _add(self, copy: Copy) -> None:
        self.copies[copy.stream.id] = copy
        copy.stream.grown = self.grown
        self.grown(copy.stream)

    @property
    def _holds(self) -> bool:
        return asyncio.get_running_loop().time() < self.held_until

    def _waited(self) -> None:
        if self._holds:
            self._go_ahead()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._log_wait_s, self._waited)

    def _go_ahead(self) -> None:
        self.is_behind = True
        for copy in self.copies.values():
            copy.stream.go_ahead()

    def _fail(self, error: Exception, *, is_news: bool) -> None:
        if self._holds:
            self._go_ahead()
        self.failed_at = asyncio.get_running_loop().time()
        for copy in self.copies.values():
            copy.is_sure = False
        ended = [id for id, copy in self.copies.items() if not copy.stream.open]
        for id in ended[: max(0, len(ended) - MAX_ENDED)]:
            self.copies.pop(id, None)
        self._work.set()
        if is_news:
            log.warning("the store does not answer", extra={"reason": str(error), "streams": len(self.copies)})

    def __repr__(self) -> str:
        due = sum(copy.n_entries - copy.n_logged for copy in self.copies.values())
        return f"<Writer {len(self.copies)} streams, {due} entries due{', behind' if self.is_behind else ''}>"


def _write(copy: Copy, room: int) -> Write:
    """The entries that the store lacks, at most `room` of them."""
    stream = copy.stream
    n_events = len(stream.log) if stream.n_before_end is None else stream.n_before_end
    end = min(n_events, copy.n_logged + room)
    used = copy.n_tokens(copy.n_logged)
    payloads = []
    for n in range(copy.n_logged, end):
        tokens = stream.tokens[used : used + stream.weights[n]]
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
    """Where it stood at event n, as far as an adopter has to know."""
    if stream.weights[n]:
        return Phase.ANSWERING
    return stream.phase if stream.open and n == len(stream.log) - 1 else Phase.THINKING


def _end(stream: Stream) -> End:
    assert stream.summary is not None and stream.n_before_end is not None
    text = stream.dialect.text if isinstance(stream.dialect, Whole) else ""
    return End(stream.log[stream.n_before_end :], stream.outcome, stream.summary, stream.error, text)
