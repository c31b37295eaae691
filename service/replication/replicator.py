"""The registry's link to the durable store: our streams are written there, other replicas' are found and read.

A reader of a stream that this replica does not own makes it follow the log. Ownership of streams: leases.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from service.dialects import codec as dialects
from service.errors import NotReady
from service.replication.follower import Follower, FollowerStore, feed
from service.replication.handover import HandoverStore, hand_over
from service.replication.leases import Leases, LeasesObserver, LeaseStore
from service.replication.logged_stream import LoggedStream
from service.replication.records import NOWHERE, Entry, LogPosition, Record, decode_record, encode_record, settled
from service.replication.remote_streams import RemoteStreams
from service.replication.reservations import Reservations, end, key_name
from service.replication.store import StoreDown
from service.replication.writer import Writer, WriterObserver, WriterStore
from service.streams.registry import Streams
from service.streams.stream import Stream
from service.streams.table import Role

log = logging.getLogger("service.replication")

STREAM_ID = re.compile(r"[0-9a-f]{32}")


class Store(WriterStore, FollowerStore, LeaseStore, HandoverStore, Protocol):
    """Storage outside this process. Every method may raise StoreDown."""

    async def is_gone(self, id: str, /) -> bool: ...
    async def cancel(self, id: str, /) -> None: ...
    async def close(self) -> None: ...


class ReplicationObserver(WriterObserver, LeasesObserver, Protocol):
    """What the metrics observe."""


class Replication:
    """The Directory of streams that replicas share. It ends with `stop`; `remote`: the store's effects on ours."""

    def __init__(
        self,
        *,
        store: Store,
        streams: Streams,
        observer: ReplicationObserver,
        log_wait_s: float,
        store_prompts: bool,
        model: Callable[[], str],
    ) -> None:
        """model: see Leases, known before the first stream begins."""
        self.streams, self.remote = streams, RemoteStreams(streams)
        self.writer = Writer(store=store, log_wait_s=log_wait_s, observer=observer, lost=self._lost)
        self.follower = Follower(store=store, sink=self, clock=streams.clock)
        self.leases = Leases(
            store=store,
            remote=self.remote,
            writer=self.writer,
            follower=self.follower,
            observer=observer,
            replay=self._replay,
            model=model,
        )
        self._store = store
        self._store_prompts, self._model = store_prompts, model
        self._clock = streams.clock
        self._tasks: list[asyncio.Task[None]] = []
        self._reservations = Reservations(store.reservations, self._find)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(part.run()) for part in (self.writer, self.follower, self.leases)]

    async def stop(self) -> None:
        """Write what is left, if the store takes it, and close."""
        await end(self._tasks)
        await self._reservations.stop()
        try:
            await self.writer.flush()
        except StoreDown as e:
            log.warning("the last events were not written", extra={"reason": str(e)})
        await self._store.close()

    async def hand_over(self) -> None:
        """Hand over the resumable streams, so that another replica adopts them at once. Their readers, cut by
        `cut_followed`, resume there."""
        if self._store_prompts:
            await hand_over(self._store, self.writer, self.remote)

    # Called by requests.

    def opened(self, stream: Stream, key: tuple[str, str] | None) -> None:
        """A new stream of ours."""
        record = Record(
            submit=stream.submit,
            dialect=dialects.describe(stream.dialect),
            tenant=stream.tenant,
            route=stream.route,
            grace_s=stream.grace_s,
            arrived_at=time.time() - (self._clock() - stream.times.arrived_at),
            model=self._model(),
            key=None if key is None else key_name(*key),
        )
        self.writer.begin(stream, encode_record(record if self._store_prompts else record.without_prompt()), record.key)

    async def locate(self, id: str) -> Stream | None:
        """A stream of ours, or another replica's, from now on followed here. Raises NotReady when that is unknown."""
        found = self.streams.find(id)
        if found or self.streams.table.role(id) is Role.GONE or not STREAM_ID.fullmatch(id):
            return found
        stream = await self._fetch(id)
        if stream is None and not self.leases.store_is_steady:  # it may lack a log that its owner is about to rewrite
            raise NotReady("The other replicas' streams are not all known yet.", retry_after_s=2.0)
        return stream

    async def _fetch(self, id: str) -> Stream | None:
        """The stream as stored. Raises NotReady."""
        try:
            loaded = await self._store.load(id)
        except StoreDown:
            raise NotReady("The other replicas' streams can't be reached at the moment.", retry_after_s=2.0) from None
        if stream := self.streams.find(id):  # another call was faster
            return stream
        if loaded is None:
            return None
        record, entries = loaded
        try:
            return self._replay(decode_record(record), entries)
        except ValueError as e:
            log.error("invalid stream record", extra={"stream": id[:8], "reason": str(e)})
            return None

    async def _find(self, id: str) -> Stream | None:
        return self.streams.find(id) or await self._fetch(id)

    async def is_gone(self, id: str) -> bool:
        """Whether a stream of this id ended and expired, not too long ago."""
        if self.streams.table.role(id) is Role.GONE:
            return True
        try:
            return STREAM_ID.fullmatch(id) is not None and await self._store.is_gone(id)
        except StoreDown:
            return False

    async def reserve(self, tenant: str, key: str, asked: object) -> tuple[Stream | None, str]:
        """The stream that this key started, anywhere; None: start it, with this id. Raises KeyReused."""
        id = secrets.token_hex(16)
        stream = self.streams.by_key(tenant, key, asked)
        if stream is None:
            if not self.writer.is_behind:  # else better twice than never
                stream = await self._reservations.reserve(tenant, key, asked, id)
            # While we waited, another request here may have opened it.
            stream = stream or self.streams.by_key(tenant, key, asked)
        return stream, id

    def free(self, tenant: str, key: str, id: str) -> None:
        """Nothing ran with this id: the key may start another stream."""
        self._reservations.free(tenant, key, id)

    async def end(self, stream: Stream) -> None:
        """Cancel it, or have its owner cancel it. Raises NotReady if the store is down."""
        if self.remote.followed(stream.id) is None:
            self.streams.cancel(stream)
            return
        try:
            await self._store.cancel(stream.id)
        except StoreDown:
            message = "The replica that runs this stream can't be notified at the moment; try again."
            raise NotReady(message, retry_after_s=2.0) from None

    # Called by the follower.

    def followed(self, id: str) -> Stream | None:
        return self.remote.followed(id)

    def ended(self, stream: Stream) -> None:
        self.remote.ended(stream)

    def contradicted(self, stream: Stream) -> None:
        log.warning("an event log differs from what was read here", extra={"stream": stream.id[:8]})
        self.remote.forget(stream)

    def cancelled(self, id: str) -> None:
        self.leases.cancel(id)

    def _replay(self, record: Record, entries: list[Entry]) -> Stream | None:
        """The local stream of this record and log, made if there is none, and followed if it is open."""
        stream = self.streams.find(record.submit.id)
        place = entries[-1][0] if entries else NOWHERE
        if stream is None:
            age_s = max(0.0, time.time() - record.arrived_at)  # clocks may differ, or have been set back
            arrived_at = self._clock() - age_s
            stream = self.remote.remake(
                record.submit,
                dialects.make(record.dialect),
                route=record.route,
                tenant=record.tenant,
                grace_s=record.grace_s,
                arrived_at=arrived_at,
            )
        for entry in settled(entries):
            if not feed(stream, entry, self._clock()):
                self.contradicted(stream)
                return None
        if stream.open:
            self.remote.follow(stream)
            self.follower.add(stream, place)
        else:
            self.remote.ended(stream)
        return stream

    def _lost(self, copy: LoggedStream, place: LogPosition) -> None:
        """Another replica has adopted it: stop, and follow its log from the last position known to agree."""
        stream = copy.stream
        self.remote.give_up(stream)
        if stream.open:
            stream.take_back(dialects.make(dialects.describe(stream.dialect)))
            self.follower.add(stream, LogPosition(copy.epoch, copy.n_logged))
        else:  # with an end that is not logged
            self.remote.forget(stream)

    def __repr__(self) -> str:
        return f"<Replication {self.writer!r} {self.follower!r}>"
