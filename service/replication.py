"""The registry's link to the store that outlives us: our streams are written there, and others' are found and read.

A reader that comes to a replica without its stream makes it follow the log. Who owns which stream: leases.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Protocol

import orjson

from service import dialects
from service.errors import KeyReused, NotReady
from service.follower import Follower, feed
from service.keys import digest
from service.leases import Leases
from service.leases import Observer as LeasesObserver
from service.registry import Streams
from service.store import NOWHERE, Entry, Place, Record, Store, StoreDown, decode_record, encode_record, settled
from service.streams import Stream
from service.writer import Copy, Writer
from service.writer import Observer as WriterObserver

log = logging.getLogger("service.replication")

STREAM_ID = re.compile(r"[0-9a-f]{32}")
HAND_OVER_S = 5.0  # of a process that is being stopped: what is not handed over by then is adopted a lease later
KEY_TRIES, KEY_PAUSE_S = 10, 0.1  # a key is reserved a moment before its stream can be found


class Observer(WriterObserver, LeasesObserver, Protocol):
    """What the metrics want to know."""


class Replication:
    """registry.Replicas. `leases.model` has to be set before the first stream begins."""

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
        is_alone: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """orphan_s, is_alone: see Leases. clock: see registry.Streams."""
        self.writer = Writer(store=store, log_wait_s=log_wait_s, observer=observer, lost=self._lost)
        self.follower = Follower(store=store, sink=self, clock=clock)
        self.leases = Leases(
            store=store,
            streams=streams,
            writer=self.writer,
            follower=self.follower,
            observer=observer,
            replay=self._replay,
            lease_s=lease_s,
            is_alone=is_alone,
            orphan_s=orphan_s,
            clock=clock,
        )
        self._store = store
        self._streams = streams
        self._store_prompts = store_prompts
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._asides: set[asyncio.Task[None]] = set()
        streams.replicas = self

    def start(self) -> None:
        self._tasks = [asyncio.create_task(part.run()) for part in (self.writer, self.follower, self.leases)]

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
            async with asyncio.timeout(HAND_OVER_S):
                await self._hand_over()
        except TimeoutError:  # what was given up by then is adopted when its lease has run out
            log.warning("the streams could not be handed over", extra={"reason": f"it took {HAND_OVER_S:g} s"})

    async def _hand_over(self) -> None:
        try:
            await self.writer.flush()  # also when it is behind: that may be one slow write
            given = [copy for copy in self.writer.copies.values() if copy.stream.open and copy.stream.grace_s]
            for copy in given:
                self._streams.give_up(copy.stream)
            while any(copy.is_due for copy in given if self.writer.copies.get(copy.stream.id) is copy):
                await self.writer.flush()
                await asyncio.sleep(0)  # a flush that finds nothing to write does not wait
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
            model=self.leases.model,
            key=None if key is None else _name(*key),
        )
        self.writer.begin(stream, encode_record(record if self._store_prompts else record.without_prompt()), record.key)

    async def locate(self, id: str) -> Stream | None:
        """Another replica's stream, from now on followed here. Raises NotReady when nobody can know."""
        if not STREAM_ID.fullmatch(id):
            return None
        stream = await self._fetch(id)
        if (
            stream is None and not self.leases.store_is_steady
        ):  # it may have lost what its owner is about to write again
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

    async def is_gone(self, id: str) -> bool:
        """Whether a stream of this id was kept until its time was over, not too long ago."""
        try:
            return STREAM_ID.fullmatch(id) is not None and await self._store.is_gone(id)
        except StoreDown:
            return False

    async def reserve(self, tenant: str, key: str, asked: object, id: str) -> Stream | None:
        """The stream that this key made, anywhere; None: it is to be made, with this id. Raises KeyReused."""
        if self.writer.is_behind:  # better twice than not at all
            return None
        name, value = _name(tenant, key), [id, digest(asked)]
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

    def free(self, tenant: str, key: str, id: str) -> None:
        """Nothing ran: this key may make another stream than the one of this id."""
        self._aside(self._store.free(_name(tenant, key), orjson.dumps([id])[:-1]))

    async def cancel(self, id: str) -> None:
        """Have its owner end it. Raises NotReady where it can't be told."""
        try:
            await self._store.cancel(id)
        except StoreDown:
            message = "The replica that makes this stream can't be told just now; try again."
            raise NotReady(message, retry_after_s=2.0) from None

    def unfollow(self, id: str) -> None:
        self.follower.remove(id)

    # What the follower finds.

    def ended(self, stream: Stream) -> None:
        self._streams.ended_elsewhere(stream)

    def contradicted(self, stream: Stream) -> None:
        log.warning("a log contradicts what was read here", extra={"stream": stream.id[:8]})
        self._streams.forget(stream)

    def cancelled(self, id: str) -> None:
        self.leases.cancel(id)

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
        stream = copy.stream
        self._streams.give_up(stream)
        if stream.open:
            stream.take_back(dialects.make(dialects.describe(stream.dialect)))
            self.follower.add(stream, Place(copy.epoch, copy.n_logged))
        else:  # with an end that nobody logged
            self._streams.forget(stream)

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


def _name(tenant: str, key: str) -> str:
    """An Idempotency-Key in the store."""
    return f"{tenant}:{key}"
