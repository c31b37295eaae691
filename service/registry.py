"""Every stream that lives or may still be read: opened here, found here, forgotten here.

All times that end or forget a stream are kept by `tick`. What the engine says goes to live.py.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from service import sse
from service.admission import Admission, Ticket
from service.engine.protocol import N_SEEDS
from service.errors import Refused, RillError
from service.events import Dialect
from service.finished import Finished
from service.keys import Keys
from service.live import Engine, Live
from service.live import Observer as LiveObserver
from service.reader import Reader
from service.schema import Order
from service.store import Record
from service.streams import Stream

# EventSources that lost one server must not all come back in the same instant.
RETRY_MS = (1500, 2500)


class Observer(LiveObserver, Protocol):
    """What the metrics want to know."""

    def gap(self, gap_s: float, /) -> None: ...
    def closed(self, stream: Stream, /) -> None: ...


class Replicas(Protocol):
    """The other replicas, where there is a store that they share (replication.py)."""

    def begin(self, stream: Stream, key: tuple[str, str] | None, /) -> None: ...
    async def locate(self, id: str, /) -> Stream | None: ...
    async def is_gone(self, id: str, /) -> bool: ...
    async def reserve(self, tenant: str, key: str, asked: object, id: str, /) -> Stream | None: ...
    def free(self, tenant: str, key: str, id: str, /) -> None: ...
    async def cancel(self, id: str, /) -> None: ...
    def unfollow(self, id: str, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how much. Seconds, bytes."""

    queue_timeout_s: float = 60.0
    heartbeat_s: float = 15.0
    write_timeout_s: float = 30.0
    resume_grace_s: float = 30.0
    stream_ttl_s: float = 300.0
    max_finished: int = 10_000
    max_finished_bytes: int = 64 << 20  # about a million tokens' events


class Streams:
    """The streams by id and by key. `clock` is the time of everything in here: monotonic seconds."""

    def __init__(
        self,
        *,
        engine: Engine,
        admission: Admission,
        observer: Observer,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.replicas: Replicas | None = None
        self.live = Live(engine=engine, admission=admission, observer=observer, clock=clock)
        self._finished = Finished(
            ttl_s=limits.stream_ttl_s, max_streams=limits.max_finished, max_bytes=limits.max_finished_bytes
        )
        self._followed: dict[str, Stream] = {}  # other replicas' live ones
        self._keys = Keys()
        self._readers: set[Reader] = set()
        self._admission = admission
        self._observer = observer
        self._clock = clock
        self._deserted: dict[str, float] = {}  # live streams without a reader: when they are given up

    def open(
        self,
        order: Order,
        dialect: Dialect,
        *,
        route: str,
        arrived_at: float,
        tenant: str = "",
        key: str | None = None,
        asked: object = None,
        resumable: bool = False,
        pace: float | None = None,
        id: str | None = None,
    ) -> Stream:
        """A new stream, submitted to the engine. Raises a Refused when there is no place for it.

        A resumable one runs on for resume_grace_s whenever it has no reader; another ends with its last reader.
        pace: what its reader will be sent, tokens/s: what the engine makes beyond that is in no hurry.
        key: for by_key, with what was asked for (the order, unless there is more to it).
        """
        ticket = self._admission.admit(tenant)
        stream = Stream(
            submit=order.submit(
                id or secrets.token_hex(16), secrets.randbelow(N_SEEDS), time.time(), tenant=tenant, pace=pace
            ),
            dialect=dialect,
            ticket=ticket,
            route=route,
            tenant=tenant,
            arrived_at=arrived_at,
            retry=sse.retry(random.randint(*RETRY_MS)),
            grace_s=self.limits.resume_grace_s if resumable else 0.0,
            closed=self._on_close,
            gap=self._observer.gap,
        )
        self._deserted[stream.id] = self._clock() + max(stream.grace_s, self.limits.resume_grace_s)
        if key is not None:
            self._keys.add(tenant, key, stream.id, order if asked is None else asked)
        if self.replicas is not None:
            self.replicas.begin(stream, None if key is None else (tenant, key))
        self.live.add(stream)
        return stream

    def find(self, id: str) -> Stream | None:
        """The stream of this id that is here, live or finished and not yet forgotten."""
        return self.live.get(id) or self._followed.get(id) or self._finished.get(id)

    async def locate(self, id: str) -> Stream | None:
        """The stream of this id, here or at another replica. Raises NotReady when that can't be told."""
        stream = self.find(id)
        if stream or self.replicas is None or self._finished.is_gone(id):
            return stream
        return await self.replicas.locate(id)

    async def is_gone(self, id: str) -> bool:
        """Whether there was a stream of this id, not too long ago, here or at another replica."""
        return self._finished.is_gone(id) or (self.replicas is not None and await self.replicas.is_gone(id))

    def by_key(self, tenant: str, key: str, asked: object) -> Stream | None:
        """The stream that this key made. Raises KeyReused when that was asked for something that is not equal."""
        return self.find(self._keys.find(tenant, key, asked))

    async def reserve(self, tenant: str, key: str, asked: object) -> tuple[Stream | None, str]:
        """As by_key, over all replicas; where there is none yet, the id that the new one is to have."""
        id = secrets.token_hex(16)
        stream = self.by_key(tenant, key, asked)
        if stream is None and self.replicas is not None:
            # While we waited, somebody here may have opened it.
            stream = await self.replicas.reserve(tenant, key, asked, id) or self.by_key(tenant, key, asked)
        return stream, id

    def free(self, tenant: str, key: str, id: str) -> None:
        """Nothing ran for this key: who comes back with it is to be tried again, here or elsewhere."""
        self._keys.forget(id)
        if self.replicas is not None:
            self.replicas.free(tenant, key, id)

    @contextmanager
    def attach(
        self,
        stream: Stream,
        *,
        place: int = 0,
        after: str | None = None,
        pace: float | None = None,
        is_bare: bool = False,
        stall: Callable[[], None],
    ) -> Iterator[Reader]:
        """A reader of the stream from the event numbered `place` on, for as long as the context lasts."""
        reader = Reader(stream, place=place, after=after, pace=pace, is_bare=is_bare, clock=self._clock, stall=stall)
        stream.readers.append(reader)
        self._readers.add(reader)
        self._deserted.pop(stream.id, None)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            stream.readers.remove(reader)
            if stream.open and not stream.readers and self.find(stream.id) is stream:
                self._desert(stream)

    def cancel(self, stream: Stream, outcome: str = "cancelled") -> None:
        """End a stream of ours now; the engine frees its sequence within a step."""
        if stream.open and stream.id not in self._followed:
            self.live.cancel(stream, outcome)

    async def end(self, stream: Stream) -> None:
        """Cancel it, wherever it is made. Raises NotReady where its owner can't be told."""
        if stream.id in self._followed and self.replicas is not None:
            await self.replicas.cancel(stream.id)
        else:
            self.cancel(stream)

    # What other replicas do.

    def remake(self, record: Record, dialect: Dialect, arrived_at: float) -> Stream:
        """Another replica's stream, without its log yet."""
        stream = Stream(
            submit=record.submit,
            dialect=dialect,
            ticket=self._admission.spectator(),
            route=record.route,
            tenant=record.tenant,
            arrived_at=arrived_at,
            grace_s=record.grace_s,
            closed=self._on_close,
            gap=self._observer.gap,
        )
        stream.travelled = True
        return stream

    def follow(self, stream: Stream) -> None:
        """It lives at another replica and can be read here."""
        stream.durable = True
        self._followed[stream.id] = stream
        if not stream.readers:
            self._deserted[stream.id] = self._clock() + self.limits.resume_grace_s

    def ended_elsewhere(self, stream: Stream) -> None:
        """It was followed, or would have been; it can be read here for a while yet."""
        self._followed.pop(stream.id, None)
        self._deserted.pop(stream.id, None)
        self._finished.add(stream)

    def admit(self, tenant: str) -> Ticket:
        """A place for another replica's stream. Raises a Refused."""
        return self._admission.admit(tenant, is_owed=True)

    def adopt(self, stream: Stream, ticket: Ticket, error: RillError | None = None) -> None:
        """It is ours from now on: the engine goes on behind what its log holds; or it ends here, with this error."""
        now = self._clock()
        self._followed.pop(stream.id, None)
        stream.take_over(ticket, now)
        if error is not None:
            stream.fail(error, now)
            return
        if not stream.readers:
            self._deserted[stream.id] = now + max(stream.grace_s, self.limits.resume_grace_s)
        self.live.add(stream)

    def give_up(self, stream: Stream) -> None:
        """Another replica has adopted it: it is only read here."""
        if self.live.give_up(stream.id):
            self._deserted.pop(stream.id, None)
            stream.give_up(self._clock())
            self.follow(stream)

    def forget(self, stream: Stream) -> None:
        """What is here is not what others have: its readers have to come back."""
        self._cut(stream)
        self._followed.pop(stream.id, None)
        self._finished.remove(stream)
        self._deserted.pop(stream.id, None)
        self._keys.forget(stream.id)

    def cut_followed(self) -> None:
        """Whoever reads another replica's stream here has to go on elsewhere."""
        for stream in self._followed.values():
            self._cut(stream)

    def _cut(self, stream: Stream) -> None:
        for reader in [r for r in self._readers if r.stream is stream]:
            reader.stall()

    def deserted(self) -> list[str]:
        """Our streams that nobody reads here."""
        return [id for id in self._deserted if self.live.get(id)]

    def is_read(self, id: str) -> None:
        """Somebody reads it elsewhere."""
        if id in self._deserted and (stream := self.live.get(id)):
            self._deserted[id] = self._clock() + max(stream.grace_s, self.limits.resume_grace_s)

    # What time does.

    def tick(self) -> None:
        """Keep all times: call it a few times a second."""
        now, limits = self._clock(), self.limits
        for reader in list(self._readers):
            reader.tick(now, heartbeat_s=limits.heartbeat_s, write_timeout_s=limits.write_timeout_s)
        self.live.time_out(limits.queue_timeout_s)
        for id in [id for id, end in self._deserted.items() if now >= end]:
            self._abandon(id)
        for id in self._finished.forget(now):
            self._keys.forget(id)

    def fail_all(self, make: Callable[[], RillError]) -> None:
        """End every live stream with this failure, and let no reader take its time: the drain is over."""
        self.live.fail_all(make)
        for reader in self._readers:
            reader.hurry()

    @property
    def is_idle(self) -> bool:
        """Nothing is generated and nothing is read."""
        return not self.live and not self._readers

    @property
    def n_readers(self) -> int:
        return len(self._readers)

    def _desert(self, stream: Stream) -> None:
        if stream.id in self._followed:
            self._deserted[stream.id] = self._clock() + self.limits.resume_grace_s
        elif stream.grace_s:
            self._deserted[stream.id] = self._clock() + stream.grace_s
        else:
            self.cancel(stream, "client_left")

    def _abandon(self, id: str) -> None:
        """Nobody has read it for its time."""
        if stream := self.live.get(id):
            self.cancel(stream, "client_left")
        else:
            del self._deserted[id], self._followed[id]
            self._keys.forget(id)
            if self.replicas is not None:
                self.replicas.unfollow(id)

    def _on_close(self, stream: Stream) -> None:
        self._deserted.pop(stream.id, None)
        if isinstance(stream.error, Refused) and not stream.tokens and (key := self._keys.of(stream.id)):
            self.free(*key, stream.id)
        if stream.accepted:
            self._finished.add(stream)
        else:  # nobody was told its id
            self._keys.forget(stream.id)
        self._observer.closed(stream)
        self.live.remove(stream.id)

    def __repr__(self) -> str:
        return f"<Streams {len(self.live)} live, {len(self._finished)} finished, {len(self._readers)} readers>"
