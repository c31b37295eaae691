"""Every stream that lives or may still be read: opened here, fed here by the engine's frames, forgotten here.

The engine's frames come in, submits and cancels go out; all times that end or forget a stream are kept by `tick`.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from service import sse
from service.admission import MAX_RETRY_AFTER_S, Admission, Ticket
from service.engine.protocol import Accepted, Ready, Refused, Started, Step, Submit
from service.errors import EngineCrash, KeyReused, QueueTimeout, RillError, refused_by_engine
from service.errors import Refused as RefusedError
from service.events import Dialect
from service.reader import Reader
from service.recovery import Recovery
from service.schema import N_SEEDS, Order
from service.store import Record
from service.streams import Stream

# EventSources that lost one server must not all come back in the same instant.
RETRY_MS = (1500, 2500)


class Engine(Protocol):
    """Door 1."""

    def submit(self, submit: Submit, /) -> None: ...
    def cancel(self, id: str, /) -> None: ...


class Observer(Protocol):
    """What the metrics want to know."""

    def gap(self, gap_s: float, /) -> None: ...
    def step(self, step: Step, /) -> None: ...
    def continued(self) -> None: ...
    def closed(self, stream: Stream, /) -> None: ...


class Replicas(Protocol):
    """The other replicas, where there is a store that they share (replication.py)."""

    def begin(self, stream: Stream, key: tuple[str, str] | None, /) -> None: ...
    async def locate(self, id: str, /) -> Stream | None: ...
    async def reserve(self, tenant: str, key: str, asked: object, id: str, /) -> Stream | None: ...
    def cancel(self, id: str, /) -> None: ...
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
        self._engine = engine
        self._admission = admission
        self._observer = observer
        self._clock = clock
        self._live: dict[str, Stream] = {}
        self._followed: dict[str, Stream] = {}  # other replicas' live ones
        self._recovery = Recovery()
        self._finished: OrderedDict[str, Stream] = OrderedDict()  # oldest end first
        self._finished_bytes = 0
        self._keys: dict[tuple[str, str], tuple[str, object]] = {}  # what each was used for
        self._key_of: dict[str, tuple[str, str]] = {}
        self._readers: set[Reader] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()  # ids of streams that can't be read any more
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
        id: str | None = None,
    ) -> Stream:
        """A new stream, submitted to the engine. Raises a Refused when there is no place for it.

        A resumable one runs on for resume_grace_s whenever it has no reader; another ends with its last reader.
        key: for by_key, with what was asked for (the order, unless there is more to it).
        """
        ticket = self._admission.admit()
        stream = Stream(
            submit=order.submit(id or secrets.token_hex(16), secrets.randbelow(N_SEEDS), time.time()),
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
        self._live[stream.id] = stream
        self._deserted[stream.id] = self._clock() + max(stream.grace_s, self.limits.resume_grace_s)
        if key is not None:
            self._keys[tenant, key] = stream.id, order if asked is None else asked
            self._key_of[stream.id] = tenant, key
        if self.replicas is not None:
            self.replicas.begin(stream, None if key is None else (tenant, key))
        self._recovery.add(stream.id)
        self._send()
        return stream

    def find(self, id: str) -> Stream | None:
        """The stream of this id that is here, live or finished and not yet forgotten."""
        return self._live.get(id) or self._followed.get(id) or self._finished.get(id)

    async def locate(self, id: str) -> Stream | None:
        """The stream of this id, here or at another replica. Raises NotReady when that can't be told."""
        stream = self.find(id)
        return stream if stream or self.replicas is None or id in self._gone else await self.replicas.locate(id)

    def is_gone(self, id: str) -> bool:
        """Whether there was a stream of this id, not too long ago."""
        return id in self._gone

    def by_key(self, tenant: str, key: str, asked: object) -> Stream | None:
        """The stream that this key made. Raises KeyReused when that was asked for something that is not equal."""
        id, first = self._keys.get((tenant, key), ("", asked))
        stream = self.find(id)
        if stream is not None and first != asked:
            raise KeyReused("This key was used for another request.", param="key")
        return stream

    async def reserve(self, tenant: str, key: str, asked: object) -> tuple[Stream | None, str]:
        """As by_key, over all replicas; where there is none yet, the id that the new one is to have."""
        id = secrets.token_hex(16)
        stream = self.by_key(tenant, key, asked)
        if stream is None and self.replicas is not None:
            # While we waited, somebody here may have opened it.
            stream = await self.replicas.reserve(tenant, key, asked, id) or self.by_key(tenant, key, asked)
        return stream, id

    @contextmanager
    def attach(
        self,
        stream: Stream,
        *,
        place: int = 0,
        after: str | None = None,
        pace: float | None = None,
        stall: Callable[[], None],
    ) -> Iterator[Reader]:
        """A reader of the stream from the event numbered `place` on, for as long as the context lasts."""
        reader = Reader(stream, place=place, after=after, pace=pace, clock=self._clock, stall=stall)
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
        """End a stream now; the engine frees its sequence within a step."""
        if stream.id in self._followed:
            if self.replicas is not None:
                self.replicas.cancel(stream.id)
        elif stream.open:
            self._engine.cancel(stream.id)
            stream.cancel(outcome, self._clock())

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
        self._keep(stream)

    def admit(self) -> Ticket:
        """A place for another replica's stream. Raises a Refused."""
        return self._admission.admit()

    def adopt(self, stream: Stream, ticket: Ticket, error: RillError | None = None) -> None:
        """It is ours from now on: the engine goes on behind what its log holds; or it ends here, with this error."""
        now = self._clock()
        self._followed.pop(stream.id, None)
        self._live[stream.id] = stream
        stream.take_over(ticket, now)
        if error is not None:
            stream.fail(error, now)
            return
        if not stream.readers:
            self._deserted[stream.id] = now + max(stream.grace_s, self.limits.resume_grace_s)
        self._recovery.add(stream.id)
        self._send()

    def give_up(self, stream: Stream) -> None:
        """Another replica has adopted it: it is only read here."""
        self._engine.cancel(stream.id)
        if self._live.pop(stream.id, None):
            self._recovery.end(stream.id)
            self._deserted.pop(stream.id, None)
            stream.give_up(self._clock())
            self.follow(stream)
            self._send()

    def forget(self, stream: Stream) -> None:
        """What is here is not what others have: its readers have to come back."""
        self._cut(stream)
        self._followed.pop(stream.id, None)
        self._deserted.pop(stream.id, None)

    def cut_followed(self) -> None:
        """Whoever reads another replica's stream here has to go on elsewhere."""
        for stream in self._followed.values():
            self._cut(stream)

    def _cut(self, stream: Stream) -> None:
        for reader in [r for r in self._readers if r.stream is stream]:
            reader.stall()

    def deserted(self) -> list[str]:
        """Our streams that nobody reads here."""
        return [id for id in self._deserted if id in self._live]

    def is_read(self, id: str) -> None:
        """Somebody reads it elsewhere."""
        if id in self._deserted:
            self._deserted[id] = self._clock() + max(self._live[id].grace_s, self.limits.resume_grace_s)

    # What the engine says.

    def ready(self, ready: Ready) -> None:
        """It takes work from now on."""
        self._admission.open(n_seq=ready.n_seq)
        self._recovery.up()
        self._send()

    def deliver(self, frame: Accepted | Refused | Started | Step) -> None:
        """One frame of door 2. Frames for streams that have ended meanwhile are ignored."""
        if isinstance(frame, Step):
            self._step(frame)
            return
        if isinstance(frame, Started):
            for id in frame.ids:
                self._recovery.starts(id)
            return
        stream = self._live.get(frame.id)
        if stream is None:
            return
        if isinstance(frame, Accepted):
            self._recovery.waits(frame.id)
            stream.accept(frame.n_prompt, self._admission.wait_s(stream.ticket.place))
        else:
            param = "messages" if stream.route == "/v1/chat/completions" else "prompt"
            stream.fail(refused_by_engine(frame.code, frame.message, param), self._clock())

    def lost(self, shut: Callable[[], RefusedError], stays_down: bool) -> None:
        """The engine died: refuse new streams. The live ones go on when it is back, but for those that killed it
        twice; if it stays down none can."""
        self._admission.shut(shut)
        for id in self._recovery.down():
            self._fail(self._live[id], "The engine stopped twice while it was at work on this request.")
        for stream in list(self._live.values()) if stays_down else []:
            self._fail(stream, "The engine stopped too often; it stays down for a while.")

    def _fail(self, stream: Stream, message: str) -> None:
        stream.fail(EngineCrash(message, retry_after_s=5.0), self._clock())

    def _send(self) -> None:
        """Submit what is due, each with what its readers have of it."""
        for id in self._recovery.due():
            stream = self._live[id]
            if stream.n_lives:
                self._observer.continued()
            self._engine.submit(stream.submission())

    # What time does.

    def tick(self) -> None:
        """Keep all times: call it a few times a second."""
        now, limits = self._clock(), self.limits
        for reader in list(self._readers):
            reader.tick(now, heartbeat_s=limits.heartbeat_s, write_timeout_s=limits.write_timeout_s)
        for stream in [s for s in self._live.values() if s.started_at is None]:
            if now - stream.waits_since >= limits.queue_timeout_s:
                self._time_out(stream, now)
        for id in [id for id, end in self._deserted.items() if now >= end]:
            self._abandon(id)
        self._forget(now)

    def fail_all(self, make: Callable[[], RillError]) -> None:
        """End every live stream with this failure, and let no reader take its time: the drain is over."""
        for stream in list(self._live.values()):
            self._engine.cancel(stream.id)
            stream.fail(make(), self._clock())
        for reader in self._readers:
            reader.hurry()

    @property
    def is_idle(self) -> bool:
        """Nothing is generated and nothing is read."""
        return not self._live and not self._readers

    @property
    def n_live(self) -> int:
        return len(self._live)

    @property
    def n_readers(self) -> int:
        return len(self._readers)

    def _step(self, step: Step) -> None:
        now, live = self._clock(), self._live
        for id, position in step.queued:
            if stream := live.get(id):
                self._recovery.waits(id)
                stream.queued(position, self._admission.wait_s(position))
        for id, n_done, n_prompt in step.prefill:
            if stream := live.get(id):
                self._recovery.starts(id)
                stream.prefill(n_done, n_prompt, now)
        for id, tokens, text in step.deltas:
            if stream := live.get(id):
                self._recovery.speaks(id)
                stream.delta(tokens, text, now)
        for finish in step.finished:
            if stream := live.get(finish.id):
                stream.finish(finish, now)
        self._observer.step(step)
        self._send()

    def _desert(self, stream: Stream) -> None:
        if stream.id in self._followed:
            self._deserted[stream.id] = self._clock() + self.limits.resume_grace_s
        elif stream.grace_s:
            self._deserted[stream.id] = self._clock() + stream.grace_s
        else:
            self.cancel(stream, "client_left")

    def _abandon(self, id: str) -> None:
        """Nobody has read it for its time."""
        if stream := self._live.get(id):
            self.cancel(stream, "client_left")
        else:
            del self._deserted[id], self._followed[id]
            if self.replicas is not None:
                self.replicas.unfollow(id)

    def _time_out(self, stream: Stream, now: float) -> None:
        self._engine.cancel(stream.id)
        message = f"The request waited {self.limits.queue_timeout_s:g} s and did not get its turn; try again later."
        wait_s = min(self._admission.wait_s(self._admission.n_waiting), MAX_RETRY_AFTER_S)
        stream.fail(QueueTimeout(message, retry_after_s=max(1.0, wait_s)), now)

    def _on_close(self, stream: Stream) -> None:
        del self._live[stream.id]
        self._recovery.end(stream.id)
        self._deserted.pop(stream.id, None)
        if stream.accepted:
            self._keep(stream)
        else:  # nobody was told its id
            self._unkey(stream.id)
        self._observer.closed(stream)
        self._send()  # the next suspect, if this one was on trial

    def _keep(self, stream: Stream) -> None:
        if stream.id not in self._finished:
            self._finished[stream.id] = stream
            self._finished_bytes += stream.n_bytes

    def _forget(self, now: float) -> None:
        """Drop what ended stream_ttl_s ago, and the oldest beyond the bounds. Who reads it still keeps it himself."""
        limits = self.limits
        while self._finished:
            id, stream = next(iter(self._finished.items()))
            assert stream.closed_at is not None
            full = len(self._finished) > limits.max_finished or self._finished_bytes > limits.max_finished_bytes
            if not full and now - stream.closed_at < limits.stream_ttl_s:
                return
            del self._finished[id]
            self._finished_bytes -= stream.n_bytes
            self._unkey(id)
            self._gone[id] = None
            if len(self._gone) > limits.max_finished:
                self._gone.popitem(last=False)

    def _unkey(self, id: str) -> None:
        key = self._key_of.pop(id, None)
        if key is not None and self._keys[key][0] == id:  # else a later stream has the key
            del self._keys[key]

    def __repr__(self) -> str:
        return f"<Streams {len(self._live)} live, {len(self._finished)} finished, {len(self._readers)} readers>"
