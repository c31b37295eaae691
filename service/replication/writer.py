"""Writes this replica's own streams to the store: one write at a time, with all events since the last one.

Readers wait for a write's answer up to log_wait_s; then they get the events anyway, and the streams are not durable
until the store has caught up. Not so while another replica may own them, as after a stall of this process: events sent
then would never be logged. Writes are never queued: each stream's event log in memory is the queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

from service.logs import where
from service.replication.logged_stream import LoggedStream, next_write
from service.replication.records import LogPosition, reserved_by
from service.replication.reservations import ReservationStore
from service.replication.store import StoreDown, Write
from service.streams.endings import came_to_nothing
from service.streams.stream import Stream

log = logging.getLogger("service.writer")

MAX_ENTRIES = 2000  # of one write: a few hundred kilobytes
MAX_ENDED = 1000  # ended streams that wait for a store that is down
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # between attempts while the store is down


class WriterStore(Protocol):
    """What is asked of the store. Each may raise StoreDown."""

    @property
    def reservations(self) -> ReservationStore: ...

    async def write(self, writes: list[Write], /) -> list[LogPosition]:
        """Write all at once. Returns where each log ends now: beyond a Write's own epoch, another replica owns it."""

    async def ends(self, ids: list[str], /) -> list[LogPosition]: ...
    async def drop(self, id: str, epoch: int, key: str | None, /) -> None: ...


class WriterObserver(Protocol):
    """What the metrics observe."""

    def acknowledged(self, wait_s: float, /) -> None: ...
    def fenced(self) -> None: ...


class Writer:
    """`begin` a stream, then call `grown` for each event; `run` does the rest. `lost(copy, place)` is called for
    streams that another replica has adopted."""

    def __init__(
        self,
        *,
        store: WriterStore,
        log_wait_s: float,
        observer: WriterObserver,
        lost: Callable[[LoggedStream, LogPosition], None],
    ) -> None:
        self.copies: dict[str, LoggedStream] = {}
        self.is_behind = False  # readers do not wait for the store now
        self.failed_at = 0.0  # when the store last failed (the loop's time)
        self.held_until = math.inf  # before this no other replica can have adopted our streams (loop time)
        self._store = store
        self._log_wait_s = log_wait_s
        self._observer = observer
        self._lost = lost
        self._work = asyncio.Event()
        self._writing = asyncio.Lock()
        self._grown_at: float | None = None  # when the first event came that is in no write yet
        self._timer: asyncio.TimerHandle

    @property
    def n_not_durable(self) -> int:
        return sum(not copy.stream.log.is_durable for copy in self.copies.values())

    def begin(self, stream: Stream, record: bytes, key: str | None = None) -> None:
        """A new stream: all its events are written to the store."""
        self._add(LoggedStream(stream, 1, 0, record, key, n_logged=0, has_record=False))
        stream.log.is_durable = not self.is_behind

    def inherit(self, stream: Stream, epoch: int, record: bytes, key: str | None, *, n_logged: int) -> None:
        """One that we have claimed, with n_logged entries in the store: our own log may be ahead."""
        self._add(LoggedStream(stream, epoch, n_logged, record, key, n_logged, has_record=True))
        stream.log.is_durable = not self.is_behind

    def grown(self, stream: Stream) -> None:
        """It has a new event, or has ended. Called before readers may have that."""
        if self._grown_at is None:
            self._grown_at = asyncio.get_running_loop().time()
        if not stream.log.is_durable and not self._holds:
            stream.log.is_durable = True  # its readers wait again
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
                if not isinstance(e, StoreDown):  # our bug: readers must not wait for it
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
            await self._free_keys()
            copies, writes = self._due()
            if writes:
                for copy, place in zip(copies, await self._store.write(writes), strict=True):
                    copy.has_record = True
                    self._take(copy, place)
                self._observer.acknowledged(loop.time() - since)
        finally:
            self._timer.cancel()
        self.is_behind = any(not copy.stream.log.is_durable for copy in self.copies.values())
        if any(copy.is_due or not copy.is_sure for copy in self.copies.values()):
            self._work.set()

    async def _settle(self) -> None:
        """Ask the store what it has of the streams that are not sure."""
        unsure = [copy for copy in self.copies.values() if not copy.is_sure]
        if unsure:
            for copy, place in zip(unsure, await self._store.ends([c.stream.id for c in unsure]), strict=True):
                copy.is_sure = True
                copy.has_record = False  # record and lease may be gone
                if place.epoch < copy.epoch:  # it has lost what we wrote, our marker too
                    copy.n_logged = min(copy.n_inherited, place.number)
                elif place.epoch == copy.epoch:
                    copy.n_logged = min(copy.n_logged, place.number)
                self._take(copy, place)

    async def _drop_unspoken(self) -> None:
        """Drop streams that ended before the engine accepted them: no client has their ids."""
        for copy in [c for c in self.copies.values() if not c.stream.open and not c.stream.accepted]:
            await self._store.drop(copy.stream.id, copy.epoch, copy.key)
            self.copies.pop(copy.stream.id, None)

    async def _free_keys(self) -> None:
        """Free keys of streams that never ran, for a retry at any replica."""
        for copy in list(self.copies.values()):
            if copy.key is not None and came_to_nothing(copy.stream):
                await self._store.reservations.free(copy.key, reserved_by(copy.stream.id))
                copy.key = None

    def _due(self) -> tuple[list[LoggedStream], list[Write]]:
        copies, writes, room = [], [], MAX_ENTRIES
        for copy in list(self.copies.values()):
            if room > 0 and copy.is_due:
                write = next_write(copy, room)
                room -= len(write.payloads)
                copies.append(copy)
                writes.append(write)
        return copies, writes

    def _take(self, copy: LoggedStream, place: LogPosition) -> None:
        """The store's log of this stream ends at this place."""
        if place.epoch > copy.epoch:
            self.copies.pop(copy.stream.id, None)
            self._observer.fenced()
            self._lost(copy, place)
            return
        copy.n_logged = max(copy.n_logged, place.number) if place.epoch == copy.epoch else copy.n_logged
        stream = copy.stream
        is_whole = stream.n_before_end is not None and copy.n_logged > stream.n_before_end
        stream.log.acknowledge(len(stream.log) if is_whole else copy.n_logged)
        if is_whole:
            self.copies.pop(stream.id, None)

    def _add(self, copy: LoggedStream) -> None:
        self.copies[copy.stream.id] = copy
        copy.stream.log.write_to(partial(self.grown, copy.stream))
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
            copy.stream.log.go_ahead()

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
            log.warning("the store does not respond", extra={"reason": str(error), "streams": len(self.copies)})

    def __repr__(self) -> str:
        due = sum(copy.n_entries - copy.n_logged for copy in self.copies.values())
        return f"<Writer {len(self.copies)} streams, {due} entries due{', behind' if self.is_behind else ''}>"
