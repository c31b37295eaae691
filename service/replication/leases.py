"""Ownership of streams: our leases are renewed three times in each; a stream with an expired lease is adopted here.

Any replica with the same model may claim it, with the next epoch: the old owner's writes are fenced from then
on. It continues after the logged tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from service.errors import EngineCrash, Refused
from service.logs import where
from service.replication.follower import Follower
from service.replication.records import Entry, Record, decode_record, settled
from service.replication.remote_streams import RemoteStreams
from service.replication.store import StoreDown
from service.replication.writer import Writer
from service.streams.stream import Stream

log = logging.getLogger("service.leases")

CANCELS_S = 60.0  # how long a cancellation waits for the stream to have an owner again
MOST_TAKEN = 16  # streams a turn: other replicas with free places get their share, and our own leases are renewed


class ReaderNotes(Protocol):
    """Which streams are read at which replica, as far as others have to know. Each may raise StoreDown."""

    async def note(self, ids: list[str], /) -> None: ...
    async def elsewhere(self, ids: list[str], /) -> list[str]: ...


class LeaseStore(Protocol):
    """What is asked of the store. Each may raise StoreDown."""

    @property
    def lease_s(self) -> float:
        """For how long a replica owns a stream: one that has not renewed its leases for so long counts as dead."""

    @property
    def is_alone(self) -> bool:
        """No other replica has this store."""

    @property
    def readers(self) -> ReaderNotes: ...

    async def record(self, id: str, /) -> bytes | None: ...
    async def load(self, id: str, /) -> tuple[bytes, list[Entry]] | None: ...
    async def renew(self, owned: list[tuple[str, int]], /) -> list[bool]: ...
    async def expired(self) -> list[tuple[str, int, float]]: ...
    async def claim(self, id: str, epoch: int, /) -> bool: ...
    async def release(self, id: str, epoch: int, /) -> None: ...


class LeasesObserver(Protocol):
    """What the metrics observe."""

    def adopted(self) -> None: ...


class Leases:
    """`run` does it all. `replay`: the local stream of a record and its log. `model()`: the digest of our model's
    file."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        remote: RemoteStreams,
        writer: Writer,
        follower: Follower,
        observer: LeasesObserver,
        replay: Callable[[Record, list[Entry]], Stream | None],
        model: Callable[[], str],
    ) -> None:
        self._store = store
        self._streams, self._remote = remote.streams, remote
        self._writer = writer
        self._follower = follower
        self._observer = observer
        self._replay = replay
        self._model = model
        self._lease_s = store.lease_s
        self._clock = remote.streams.clock
        # A stream that no replica can continue is failed when its owner has been dead for so long.
        self._orphan_s = remote.streams.limits.resume_grace_s
        self._failed_at = 0.0  # of the store; loop time
        self._unwanted: dict[str, float] = {}  # expired, but not for us: until when
        self._cancelled: dict[str, float] = {}  # streams that are not ours (yet), and when cancelled

    async def run(self) -> None:
        """Take turns, for ever."""
        loop = asyncio.get_running_loop()
        self._failed_at = began = loop.time()
        self._hold(began)
        while True:
            await asyncio.sleep(self._lease_s / 3)
            began = loop.time()
            try:
                await self.turn()
            except StoreDown:
                self._failed_at = loop.time()
                self._hold(began)  # as far as we know: a replica that can't reach the store adopts nothing
            except Exception as e:  # one stream's error must not cost all others their leases
                log.error("unexpected error in the leases", extra=where(e))

    @property
    def store_is_steady(self) -> bool:
        """Whether it has answered for a whole lease: by then all live replicas have renewed their leases."""
        failed_at = max(self._failed_at, self._writer.failed_at, self._follower.failed_at)
        return asyncio.get_running_loop().time() - failed_at >= self._lease_s

    def cancel(self, id: str) -> None:
        """End this stream as soon as it is ours."""
        if id in self._writer.copies:
            if stream := self._streams.find(id):
                self._streams.cancel(stream)
        else:
            self._cancelled[id] = self._clock()

    async def turn(self) -> None:
        """Renew our leases, report what is read here, adopt streams without an owner."""
        began = asyncio.get_running_loop().time()
        owned = [(id, copy.epoch) for id, copy in self._writer.copies.items() if copy.has_record]
        are_ours = await self._store.renew(owned) if owned else []
        for (id, _), is_ours in zip(owned, are_ours, strict=True):
            if not is_ours:
                self._writer.doubt(id)
        if all(are_ours):
            self._hold(began)
        if read := self._remote.read_here():
            await self._store.readers.note(read)
        if unattended := self._streams.table.unattended():
            for id in await self._store.readers.elsewhere(unattended):
                self._remote.is_read(id)
        # After a store outage an expired lease proves nothing: its owner could not renew either.
        if self.store_is_steady:
            await self._take_over(await self._store.expired())
        now = self._clock()
        self._cancelled = {id: at for id, at in self._cancelled.items() if now - at < CANCELS_S}

    async def _take_over(self, expired: list[tuple[str, int, float]]) -> None:
        """Adopt what we may. Streams that we can't continue are not checked again for a lease: a dead replica leaves
        hundreds, among which are the few that readers reconnect to."""
        now, n_taken = self._clock(), 0
        self._unwanted = {id: until for id, until in self._unwanted.items() if now < until}
        for id, epoch, overdue_s in expired:
            if n_taken >= MOST_TAKEN or id in self._unwanted:
                continue
            try:
                n_taken += await self._inherit(id, epoch, overdue_s)
            except ValueError as e:
                log.error("invalid stream record", extra={"stream": id[:8], "reason": str(e)})
                if overdue_s > self._orphan_s:
                    await self._store.release(id, epoch)

    def _hold(self, since: float) -> None:
        """No other replica adopts our streams within a lease of `since`: the loop's time when the store was asked."""
        if not self._store.is_alone:
            self._writer.held_until = since + self._lease_s

    async def _inherit(self, id: str, epoch: int, overdue_s: float) -> bool:
        """Adopt a dead owner's stream, if we may. Returns whether we tried."""
        if id in self._writer.copies:
            return False
        body = await self._store.record(id)
        if body is None:
            await self._store.release(id, epoch)
            return False
        record = decode_record(body)
        can_go_on = record.model == self._model() and record.has_prompt and await self._is_wanted(id, record)
        if not can_go_on and overdue_s < self._orphan_s:
            self._unwanted[id] = self._clock() + self._lease_s
            return False
        try:
            ticket = self._remote.admit(record.tenant)
        except Refused:
            return False
        if ticket.place and overdue_s < self._lease_s:  # a replica with a free place comes first
            ticket.release(self._clock())
            return False
        stream, is_ours = None, False
        entries: list[Entry] = []
        try:
            is_ours = await self._store.claim(id, epoch + 1)
            if is_ours and (loaded := await self._store.load(id)):
                entries = loaded[1]
                stream = self._replay(record, entries)
        finally:
            if stream is None or not stream.open:
                ticket.release(self._clock())
        if stream is None or not stream.open:
            if is_ours:  # else the lease is the winner's
                await self._store.release(id, epoch + 1)
            return True
        self._follower.remove(id)
        self._writer.inherit(stream, epoch + 1, body, record.key, n_logged=len(settled(entries)))
        if can_go_on:
            self._remote.adopt(stream, ticket)
            self._observer.adopted()
        else:
            error = EngineCrash("The stream's replica is gone, and no other can continue it.", retry_after_s=5.0)
            self._remote.adopt(stream, ticket, error)
        if id in self._cancelled:
            self._streams.cancel(stream)
        return True

    async def _is_wanted(self, id: str, record: Record) -> bool:
        """Whether a client may resume it; one that ends with its last reader must have a reader elsewhere."""
        return record.grace_s > 0 or bool(await self._store.readers.elsewhere([id]))
