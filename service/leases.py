"""Who owns which stream: our leases are renewed three times in each; a stream whose lease has run out goes on here.

Any replica with the same model may claim it, with the next epoch: the old owner's writes are refused from then
on. It goes on behind the logged tokens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from service.errors import EngineCrash, Refused
from service.follower import Follower
from service.log import where
from service.registry import Streams
from service.store import Entry, Record, Store, StoreDown, decode_record, settled
from service.streams import Stream
from service.writer import Writer

log = logging.getLogger("service.leases")

CANCELS_S = 60.0  # how long a cancellation waits for the stream to have an owner again
MOST_TAKEN = 16  # streams a turn: others, who have free places, too, take their share, and our own leases are renewed


class Observer(Protocol):
    """What the metrics want to know."""

    def adopted(self) -> None: ...


class Leases:
    """`run` does it all. `replay`: the local stream of a record and its log. `model`: the digest of the file that we
    run. is_alone: no other replica has this store. orphan_s: a stream that nobody can go on with is failed when its
    owner has been dead for so long."""

    def __init__(
        self,
        *,
        store: Store,
        streams: Streams,
        writer: Writer,
        follower: Follower,
        observer: Observer,
        replay: Callable[[Record, list[Entry]], Stream | None],
        lease_s: float,
        is_alone: bool,
        orphan_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.model = ""
        self._store = store
        self._streams = streams
        self._writer = writer
        self._follower = follower
        self._observer = observer
        self._replay = replay
        self._lease_s = lease_s
        self._is_alone = is_alone
        self._orphan_s = orphan_s
        self._clock = clock
        self._failed_at = 0.0  # the store, the loop's time
        self._unwanted: dict[str, float] = {}  # expired, but nothing for us: until when
        self._cancelled: dict[str, float] = {}  # streams that are none of ours (yet), and when that was asked

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
                self._hold(began)  # as far as anybody can tell: who does not reach the store takes nothing over
            except Exception as e:  # one stream's trouble must not cost all others their leases
                log.error("unexpected error in the leases", extra=where(e))

    @property
    def store_is_steady(self) -> bool:
        """Whether it has answered for a whole lease: in that time all who live have told it what they have."""
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
        """Renew what is ours, say what is read here, take over what has no owner any more."""
        began = asyncio.get_running_loop().time()
        owned = [(id, copy.epoch) for id, copy in self._writer.copies.items() if copy.has_record]
        are_ours = await self._store.renew(owned) if owned else []
        for (id, _), is_ours in zip(owned, are_ours, strict=True):
            if not is_ours:
                self._writer.doubt(id)
        if all(are_ours):
            self._hold(began)
        if read := [id for id, stream in self._follower.streams.items() if stream.readers]:
            await self._store.note_readers(read)
        if deserted := self._streams.deserted():
            for id in await self._store.read_elsewhere(deserted):
                self._streams.is_read(id)
        # Who could not reach the store for a while must not take others for dead: nor could they.
        if self.store_is_steady:
            await self._take_over(await self._store.expired())
        now = self._clock()
        self._cancelled = {id: at for id, at in self._cancelled.items() if now - at < CANCELS_S}

    async def _take_over(self, expired: list[tuple[str, int, float]]) -> None:
        """Inherit what we may. Those that nobody goes on with are not looked at again for a lease: a dead replica
        leaves hundreds, among which are the few whose readers are coming back."""
        now, n_taken = self._clock(), 0
        self._unwanted = {id: until for id, until in self._unwanted.items() if now < until}
        for id, epoch, overdue_s in expired:
            if n_taken >= MOST_TAKEN or id in self._unwanted:
                continue
            try:
                n_taken += await self._inherit(id, epoch, overdue_s)
            except ValueError as e:
                log.error("not a stream that we understand", extra={"stream": id[:8], "reason": str(e)})
                if overdue_s > self._orphan_s:
                    await self._store.release(id, epoch)

    def _hold(self, since: float) -> None:
        """Nobody else takes our streams over within a lease from then on: the loop's time when the store was asked."""
        if not self._is_alone:
            self._writer.held_until = since + self._lease_s

    async def _inherit(self, id: str, epoch: int, overdue_s: float) -> bool:
        """Take over a stream whose owner is dead, if we may. Returns whether we tried."""
        if id in self._writer.copies:
            return False
        body = await self._store.record(id)
        if body is None:
            await self._store.release(id, epoch)
            return False
        record = decode_record(body)
        can_go_on = record.model == self.model and record.has_prompt and await self._is_wanted(id, record)
        if not can_go_on and overdue_s < self._orphan_s:
            self._unwanted[id] = self._clock() + self._lease_s
            return False
        try:
            ticket = self._streams.admit(record.tenant)
        except Refused:
            return False
        if ticket.place and overdue_s < self._lease_s:  # whoever has a free place for it comes first
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
            self._streams.adopt(stream, ticket)
            self._observer.adopted()
        else:
            error = EngineCrash("The replica that made it is gone, and no other can go on.", retry_after_s=5.0)
            self._streams.adopt(stream, ticket, error)
        if id in self._cancelled:
            self._streams.cancel(stream)
        return True

    async def _is_wanted(self, id: str, record: Record) -> bool:
        """Whether somebody may come back for it; one that ends with its last reader has to have one elsewhere."""
        return record.grace_s > 0 or bool(await self._store.read_elsewhere([id]))
