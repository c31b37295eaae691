"""Every stream that is live or still readable: opened here, found here, forgotten here.

All deadlines that end or forget a stream are in `tick`. The engine's frames go to live.py; a stream's role at
this replica is in table.py.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from service.dialects import sse
from service.dialects.events import Dialect
from service.errors import RillError
from service.protocol.sampling import N_SEEDS
from service.streams import endings, live
from service.streams.admission import Admission, Ticket
from service.streams.idempotency import Keys
from service.streams.reader import Reader
from service.streams.request import GenerationRequest
from service.streams.stream import Stream
from service.streams.table import Role, StreamTable

# EventSources that lost one server must not all reconnect in the same instant.
RETRY_MS = (1500, 2500)


class StreamsObserver(live.LiveObserver, endings.EndingObserver, Protocol):
    """What the metrics observe."""

    def gap(self, gap_s: float, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times and sizes. Seconds, bytes."""

    queue_timeout_s: float = 60.0
    heartbeat_s: float = 15.0
    write_timeout_s: float = 30.0
    resume_grace_s: float = 30.0
    stream_ttl_s: float = 300.0
    max_finished: int = 10_000
    max_finished_bytes: int = 64 << 20  # about a million tokens' events


class Streams:
    """The streams of this replica. `clock` is the time of everything in here: monotonic seconds."""

    def __init__(
        self,
        *,
        engine: live.GenerationEngine,
        admission: Admission,
        observer: StreamsObserver,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits, self.clock, self.admission, self.observer = limits, clock, admission, observer
        self.table = StreamTable(
            ttl_s=limits.stream_ttl_s, max_ended=limits.max_finished, max_ended_bytes=limits.max_finished_bytes
        )
        self.keys = Keys()
        self.live = live.Live(
            engine=engine,
            admission=admission,
            observer=observer,
            table=self.table,
            endings=endings.Endings(table=self.table, keys=self.keys, observer=observer),
            clock=clock,
        )
        self._readers: set[Reader] = set()

    def open(
        self,
        generation: GenerationRequest,
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
        ticket: Ticket | None = None,
    ) -> Stream:
        """A new stream, submitted to the engine. Raises a Refused when there is no place for it, unless it has a
        ticket.

        A resumable one runs on for resume_grace_s whenever it has no reader; another ends with its last reader.
        pace: its reader's, tokens/s: generating tokens beyond that has low priority.
        key: for by_key, with its request in `asked` (the generation, unless there is more to it).
        """
        ticket = ticket or self.admission.admit(tenant)
        stream = Stream(
            submit=generation.submit(
                id or secrets.token_hex(16), secrets.randbelow(N_SEEDS), time.time(), tenant=tenant, pace=pace
            ),
            dialect=dialect,
            ticket=ticket,
            route=route,
            tenant=tenant,
            arrived_at=arrived_at,
            retry=sse.retry(random.randint(*RETRY_MS)),
            grace_s=self.limits.resume_grace_s if resumable else 0.0,
            gap=self.observer.gap,
        )
        if key is not None:
            self.keys.add(tenant, key, stream.id, generation if asked is None else asked)
        self.table.move(stream, "open")
        self.wait_for_reader(stream)
        self.live.add(stream)
        return stream

    def find(self, id: str) -> Stream | None:
        """The stream of this id that is here, live or ended and not yet forgotten."""
        return self.table.find(id)

    def by_key(self, tenant: str, key: str, asked: object) -> Stream | None:
        """The stream that this key started. Raises KeyReused when that was started with an unequal request."""
        return self.find(self.keys.find(tenant, key, asked))

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
        reader = Reader(stream, place=place, after=after, pace=pace, is_bare=is_bare, clock=self.clock, stall=stall)
        stream.log.readers.append(reader)
        self._readers.add(reader)
        self.table.attend(stream.id)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            stream.log.readers.remove(reader)
            if stream.open and not stream.log.readers and self.find(stream.id) is stream:
                self._left(stream)

    def cancel(self, stream: Stream, outcome: str = "cancelled") -> None:
        """End a stream that is made here; the engine frees its sequence within a step. Others are left alone."""
        if self.table.made(stream.id) is stream:
            self.live.cancel(stream, outcome)

    def cut(self, stream: Stream) -> None:
        """Disconnect its readers here: they reconnect or resume elsewhere."""
        for reader in [r for r in self._readers if r.stream is stream]:
            reader.stall()

    def wait_for_reader(self, stream: Stream) -> None:
        """Give a live stream without a reader here as long to get one as a client may take to reconnect."""
        grace_s = 0.0 if self.table.role(stream.id) is Role.FOLLOWED else stream.grace_s
        self.table.wait_for_reader(stream.id, self.clock() + max(grace_s, self.limits.resume_grace_s))

    # Deadlines.

    def tick(self) -> None:
        """Check deadlines: call a few times a second."""
        now, limits = self.clock(), self.limits
        for reader in list(self._readers):
            reader.tick(now, heartbeat_s=limits.heartbeat_s, write_timeout_s=limits.write_timeout_s)
        self.live.time_out(limits.queue_timeout_s)
        for stream in self.table.give_up(now):
            self._abandon(stream)
        for id in self.table.expire(now):
            self.keys.forget(id)

    def fail_all(self, make: Callable[[], RillError]) -> None:
        """End every live stream with this failure, and drop all readers' pace: the drain is over."""
        self.live.fail_all(make)
        for reader in self._readers:
            reader.hurry()

    @property
    def is_idle(self) -> bool:
        """Nothing is generated and nothing is read."""
        return not self.n_made and not self._readers

    @property
    def n_made(self) -> int:
        return self.table.count(Role.MADE)

    @property
    def n_readers(self) -> int:
        return len(self._readers)

    def _left(self, stream: Stream) -> None:
        """Its last reader here has left."""
        if self.table.role(stream.id) is Role.FOLLOWED:
            self.wait_for_reader(stream)
        elif stream.grace_s:
            self.table.wait_for_reader(stream.id, self.clock() + stream.grace_s)
        else:
            self.cancel(stream, "client_left")

    def _abandon(self, stream: Stream) -> None:
        """It got no reader in its time."""
        if self.table.role(stream.id) is Role.FOLLOWED:
            self.table.move(stream, "drop")
            self.keys.forget(stream.id)
        else:
            self.cancel(stream, "client_left")

    def __repr__(self) -> str:
        return f"<Streams {self.table!r}, {len(self._readers)} readers>"
