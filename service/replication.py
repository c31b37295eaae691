"""What a replica does for the others, and they for it: who owns which stream, who reads it where, who goes on with it.

Owners renew their leases three times in each. Where one has run out, any replica with the same model claims the stream
with the next epoch (redis_store.py: the old owner's writes are refused from then on) and goes on behind the logged
tokens. A reader that comes to a replica without its stream makes it follow the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Protocol

import orjson

from service import dialects
from service.errors import EngineCrash, KeyReused, NotReady, Refused
from service.follower import Follower, feed
from service.log import where
from service.registry import Streams
from service.store import NOWHERE, Entry, Place, Record, Store, StoreDown, decode_record, encode_record, settled
from service.streams import Stream
from service.writer import Copy, Writer
from service.writer import Observer as WriterObserver

log = logging.getLogger("service.replication")

STREAM_ID = re.compile(r"[0-9a-f]{32}")
KEY_TRIES, KEY_PAUSE_S = 10, 0.1  # a key is reserved a moment before its stream can be found


class Observer(WriterObserver, Protocol):
    """What the metrics want to know."""

    def adopted(self) -> None: ...


class Replication:
    """The registry's link to other replicas (registry.Replicas). `model`: the digest of the file that we run."""

    def __init__(
        self,
        *,
        store: Store,
        streams: Streams,
        observer: Observer,
        log_wait_s: float,
        store_prompts: bool,
        orphan_s: float,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """orphan_s: a stream that nobody can go on with is failed when its owner has been dead for so long."""
        self.model = ""
        self.writer = Writer(store=store, log_wait_s=log_wait_s, observer=observer, lost=self._lost)
        self.follower = Follower(store=store, sink=self, clock=clock)
        self._store = store
        self._streams = streams
        self._observer = observer
        self._store_prompts = store_prompts
        self._orphan_s = orphan_s
        self._clock = clock
        self._lease_s = lease_s
        self._failed_at = 0.0  # the store, the loop's time
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[None]] = set()
        streams.replicas = self

    def start(self) -> None:
        self._failed_at = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(run()) for run in (self.writer.run, self.follower.run, self._keep)]

    async def stop(self) -> None:
        """Write what is left, if the store takes it, and let go."""
        await end([*self._tasks, *self._asides])
        try:
            await self.writer.flush()
        except StoreDown as e:
            log.warning("the last events were not written", extra={"reason": str(e)})
        await self._store.close()

    async def hand_over(self) -> None:
        """Let go of the streams that may be resumed, so that another replica goes on with them at once. Their readers
        are cut: they come back to it."""
        if not self._store_prompts:
            return
        try:
            await self.writer.flush()  # also when it is behind: that may be one slow write
            given = [copy for copy in self.writer.copies.values() if copy.stream.open and copy.stream.grace_s]
            for copy in given:
                self._streams.give_up(copy.stream)
            while any(copy.is_due for copy in given):
                await self.writer.flush()
            for copy in given:
                self.writer.copies.pop(copy.stream.id, None)
            await self._store.hand_over([(copy.stream.id, copy.epoch) for copy in given])
            log.info("handed over", extra={"streams": len(given)})
        except StoreDown as e:  # what was given up by then is adopted when its lease has run out
            log.warning("the streams could not be handed over", extra={"reason": str(e)})

    # What the registry asks for.

    def begin(self, stream: Stream, key: tuple[str, str] | None) -> None:
        """A new stream of ours."""
        record = Record(
            submit=stream.submit,
            dialect=dialects.describe(stream.dialect),
            tenant=stream.tenant,
            route=stream.route,
            grace_s=stream.grace_s,
            arrived_at=time.time() - (self._clock() - stream.arrived_at),
            model=self.model,
            key=None if key is None else ":".join(key),
        )
        self.writer.begin(stream, encode_record(record if self._store_prompts else record.without_prompt()), record.key)

    async def locate(self, id: str) -> Stream | None:
        """Another replica's stream, from now on followed here. Raises NotReady when nobody can know."""
        if not STREAM_ID.fullmatch(id):
            return None
        stream = await self._fetch(id)
        if stream is None and not self._store_is_steady():  # it may have lost what its owner is about to write again
            raise NotReady("The other replicas' streams are not all known yet.", retry_after_s=2.0)
        return stream

    async def _fetch(self, id: str) -> Stream | None:
        """What the store has of it. Raises NotReady."""
        try:
            loaded = await self._store.load(id)
        except StoreDown:
            raise NotReady("The other replicas' streams can't be reached just now.", retry_after_s=2.0) from None
        if stream := self._streams.find(id):  # somebody else was faster
            return stream
        if loaded is None:
            return None
        record, entries = loaded
        try:
            return self._replay(decode_record(record), entries)
        except ValueError as e:
            log.error("not a stream that we understand", extra={"stream": id[:8], "reason": str(e)})
            return None

    async def reserve(self, tenant: str, key: str, asked: object, id: str) -> Stream | None:
        """The stream that this key made, anywhere; None: it is to be made, with this id. Raises KeyReused."""
        if self.writer.is_behind:  # better twice than not at all
            return None
        name, value = f"{tenant}:{key}", [id, hashlib.sha256(repr(asked).encode()).hexdigest()]
        try:
            found = await self._store.reserve(name, orjson.dumps(value))
            if found is None:
                return None
            other, first = orjson.loads(found)
            for _ in range(KEY_TRIES):
                if stream := self._streams.find(other) or await self._fetch(other):
                    if first != value[1]:
                        raise KeyReused("This key was used for another request.", param="key")
                    return stream
                await asyncio.sleep(KEY_PAUSE_S)
            await self._store.overwrite(name, orjson.dumps(value))
        except (StoreDown, NotReady):
            pass
        return None

    def cancel(self, id: str) -> None:
        """Have its owner end it."""
        self._aside(self._store.cancel(id))

    def unfollow(self, id: str) -> None:
        self.follower.remove(id)

    # What the follower finds.

    def ended(self, stream: Stream) -> None:
        self._streams.ended_elsewhere(stream)

    def contradicted(self, stream: Stream) -> None:
        log.warning("a log contradicts what was read here", extra={"stream": stream.id[:8]})
        self._streams.forget(stream)

    def cancelled(self, id: str) -> None:
        stream = self._streams.find(id)
        if stream is not None and id in self.writer.copies:
            self._streams.cancel(stream)

    # Leases.

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                await self.turn()
            except StoreDown:
                self._failed_at = asyncio.get_running_loop().time()
            except Exception as e:  # one stream's trouble must not cost all others their leases
                log.error("unexpected error in the leases", extra=where(e))

    async def turn(self) -> None:
        """Renew what is ours, say what is read here, take over what has no owner any more."""
        owned = [(id, copy.epoch) for id, copy in self.writer.copies.items() if copy.has_record]
        if owned:
            for (id, _), is_ours in zip(owned, await self._store.renew(owned), strict=True):
                if not is_ours:
                    self.writer.doubt(id)
        if read := [id for id, stream in self.follower.streams.items() if stream.readers]:
            await self._store.note_readers(read)
        if deserted := self._streams.deserted():
            for id in await self._store.read_elsewhere(deserted):
                self._streams.is_read(id)
        # Who could not reach the store for a while must not take others for dead: nor could they.
        if self._store_is_steady():
            for id, epoch, overdue_s in await self._store.expired():
                try:
                    await self._inherit(id, epoch, overdue_s)
                except ValueError as e:
                    log.error("not a stream that we understand", extra={"stream": id[:8], "reason": str(e)})
                    if overdue_s > self._orphan_s:
                        await self._store.release(id, epoch)

    def _store_is_steady(self) -> bool:
        """Whether it has answered for a whole lease: in that time all who live have told it what they have."""
        failed_at = max(self._failed_at, self.writer.failed_at, self.follower.failed_at)
        return asyncio.get_running_loop().time() - failed_at >= self._lease_s

    async def _inherit(self, id: str, epoch: int, overdue_s: float) -> None:
        """Take over a stream whose owner is dead, if we may."""
        if id in self.writer.copies:
            return
        body = await self._store.record(id)
        if body is None:
            await self._store.release(id, epoch)
            return
        record = decode_record(body)
        can_go_on = record.model == self.model and record.has_prompt and await self._is_wanted(id, record)
        if not can_go_on and overdue_s < self._orphan_s:
            return
        try:
            ticket = self._streams.admit()
        except Refused:
            return
        if ticket.place and overdue_s < self._lease_s:  # whoever has a free place for it comes first
            ticket.release(self._clock())
            return
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
            return
        self.follower.remove(id)
        self.writer.inherit(stream, epoch + 1, body, record.key, n_logged=len(settled(entries)))
        if can_go_on:
            self._streams.adopt(stream, ticket)
            self._observer.adopted()
        else:
            error = EngineCrash("The replica that made it is gone, and no other can go on.", retry_after_s=5.0)
            self._streams.adopt(stream, ticket, error)

    async def _is_wanted(self, id: str, record: Record) -> bool:
        """Whether somebody may come back for it; one that ends with its last reader has to have one elsewhere."""
        return record.grace_s > 0 or bool(await self._store.read_elsewhere([id]))

    def _replay(self, record: Record, entries: list[Entry]) -> Stream | None:
        """The local stream of this record and log, made if there is none, and followed if it is open."""
        stream = self._streams.find(record.submit.id)
        place = entries[-1][0] if entries else NOWHERE
        if stream is None:
            age_s = max(0.0, time.time() - record.arrived_at)  # clocks may differ, or have been set back
            arrived_at = self._clock() - age_s
            stream = self._streams.remake(record, dialects.make(record.dialect), arrived_at)
        for entry in settled(entries):
            if not feed(stream, entry, self._clock()):
                self.contradicted(stream)
                return None
        if stream.open:
            self._streams.follow(stream)
            self.follower.add(stream, place)
        else:
            self._streams.ended_elsewhere(stream)
        return stream

    def _lost(self, copy: Copy, place: Place) -> None:
        """Another replica has taken this one over: stop, and read what it says from where we know to agree."""
        self._streams.give_up(copy.stream)
        if copy.stream.open:
            self.follower.add(copy.stream, Place(copy.epoch, copy.n_logged))

    def _aside(self, work: Coroutine[None, None, None]) -> None:
        """Do it beside the loops; if the store is down, it is not done."""
        task = asyncio.get_running_loop().create_task(_tried(work))
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def __repr__(self) -> str:
        return f"<Replication {self.writer!r} {self.follower!r}>"


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel them until they are done: one that is in the middle of redis-py may swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)


async def _tried(work: Coroutine[None, None, None]) -> None:
    with suppress(StoreDown):
        await work
