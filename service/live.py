"""The streams that this replica's engine makes: its frames come in, submits and cancels go out.

When it dies they go on with the next one (recovery.py says in what order), or end with the one failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from service.admission import MAX_RETRY_AFTER_S, Admission
from service.deaths import Kind
from service.engine.protocol import Accepted, Ready, Refused, Started, Step, Submit
from service.errors import EngineCrash, QueueTimeout, RillError, refused_by_engine
from service.errors import Refused as RefusedError
from service.recovery import Recovery
from service.streams import Stream


class Engine(Protocol):
    """Door 1."""

    def submit(self, submit: Submit, /) -> None: ...
    def cancel(self, id: str, /) -> None: ...


class Observer(Protocol):
    """What the metrics want to know."""

    def step(self, step: Step, /) -> None: ...
    def continued(self) -> None: ...


class Live:
    """By id. `clock`: see registry.Streams. A stream that closes is `remove`d by whoever is told of that."""

    def __init__(self, *, engine: Engine, admission: Admission, observer: Observer, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._admission = admission
        self._observer = observer
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._recovery = Recovery()
        self._exact = False  # what the engine promises

    def get(self, id: str) -> Stream | None:
        return self._streams.get(id)

    def add(self, stream: Stream) -> None:
        """A new one, or another replica's: the engine goes on behind what its log holds."""
        self._streams[stream.id] = stream
        self._recovery.add(stream.id)
        self._send()

    def remove(self, id: str) -> None:
        """It has ended, or another replica has it."""
        if self._streams.pop(id, None):
            self._recovery.end(id)
            self._send()  # the next suspect, if this one was on trial

    def give_up(self, id: str) -> bool:
        """Another replica goes on with it. False: it was none of ours any more."""
        self._engine.cancel(id)
        was_ours = id in self._streams
        self.remove(id)
        return was_ours

    def cancel(self, stream: Stream, outcome: str) -> None:
        """End a stream now; the engine frees its sequence within a step."""
        self._engine.cancel(stream.id)
        stream.cancel(outcome, self._clock())

    def fail_all(self, make: Callable[[], RillError]) -> None:
        """End every one with this failure."""
        for stream in list(self._streams.values()):
            self._engine.cancel(stream.id)
            stream.fail(make(), self._clock())

    def time_out(self, queue_timeout_s: float) -> None:
        """End those that have waited for so long; and the wait for a suspect."""
        self._send()
        now = self._clock()
        for stream in [s for s in self._streams.values() if s.started_at is None]:
            if now - stream.waits_since >= queue_timeout_s:
                self._engine.cancel(stream.id)
                message = f"The request waited {queue_timeout_s:g} s and did not get its turn; try again later."
                wait_s = min(self._admission.wait_s(self._admission.n_waiting), MAX_RETRY_AFTER_S)
                stream.fail(QueueTimeout(message, retry_after_s=max(1.0, wait_s)), now)

    # What the engine says.

    def ready(self, ready: Ready) -> None:
        """It takes work from now on."""
        self._exact = ready.exact
        self._admission.open(n_seq=ready.n_seq)
        self._recovery.up()
        self._send()

    def deliver(self, frame: Accepted | Refused | Started | Step) -> None:
        """One frame of door 2. Frames for streams that have ended meanwhile are ignored."""
        if isinstance(frame, Step):
            self._step(frame)
        elif isinstance(frame, Started):
            for id in frame.ids:
                self._recovery.starts(id)
        elif (stream := self._streams.get(frame.id)) is None:
            return
        elif isinstance(frame, Accepted):
            self._recovery.waits(frame.id)
            stream.accept(frame.n_prompt, self._admission.wait_s(stream.ticket.place))
        else:
            prompt = "messages" if stream.route == "/v1/chat/completions" else "prompt"
            stream.fail(
                refused_by_engine(frame.code, frame.message, frame.param or prompt, frame.counts), self._clock()
            )

    def lost(self, shut: Callable[[], RefusedError], stays_down: bool, kind: Kind = Kind.CRASH) -> None:
        """It died, in this way: refuse new streams. The live ones go on when it is back, but for one that kills it each
        time; if it stays down none can."""
        self._admission.shut(shut)
        for id in self._recovery.down(kind):
            self._fail(self._streams[id], "The engine stopped each time that it was at work on this request alone.")
        for stream in list(self._streams.values()) if stays_down else []:
            self._fail(stream, "The engine stopped too often; it stays down for a while.")

    def _fail(self, stream: Stream, message: str) -> None:
        stream.fail(EngineCrash(message, retry_after_s=5.0), self._clock())

    def _send(self) -> None:
        """Submit what is due, each with what its readers have of it."""
        for id in self._recovery.due(self._clock()):
            stream = self._streams[id]
            if stream.n_lives:
                self._observer.continued()
            self._engine.submit(stream.submission(self._exact))

    def _step(self, step: Step) -> None:
        now, live = self._clock(), self._streams
        for id, position in step.queued:
            if stream := live.get(id):
                self._recovery.waits(id)
                stream.queued(position, self._admission.wait_s(position))
        for id, n_done, n_prompt in step.prefill:
            if stream := live.get(id):
                self._recovery.starts(id)
                stream.prefill(n_done, n_prompt, now)
        last = {id: at for at, (id, *_) in enumerate(step.deltas)} if step.finished else {}
        ends = {last[finish.id] for finish in step.finished if finish.id in last}
        for at, (id, tokens, text) in enumerate(step.deltas):
            if stream := live.get(id):
                self._recovery.proves(id)
                stream.delta(tokens, text, now, is_last=at in ends)
        for finish in step.finished:
            if stream := live.get(finish.id):
                stream.finish(finish, now)
        self._observer.step(step)
        self._send()

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"<Live {len(self._streams)} streams, {self._recovery!r}>"
