"""The streams that this replica's engine generates: its frames in, submits and cancels out.

When it dies they continue on the next one (in the order of recovery.py), or end with the one failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from service.errors import EngineCrash, QueueTimeout, Refused, RillError, refused_by_engine
from service.protocol.deaths import Kind
from service.protocol.frames import Accepted, Ready, Rejected, Started, Step, Submit
from service.streams.admission import MAX_RETRY_AFTER_S, Admission
from service.streams.endings import Endings
from service.streams.recovery import Recovery
from service.streams.stream import Stream
from service.streams.table import Role, StreamTable


class GenerationEngine(Protocol):
    """The engine."""

    def submit(self, submit: Submit, /) -> None: ...
    def cancel(self, id: str, /) -> None: ...


class LiveObserver(Protocol):
    """What the metrics observe."""

    def step(self, step: Step, /) -> None: ...
    def continued(self) -> None: ...


class Live:
    """The streams in the role MADE. `clock`: see registry.Streams."""

    def __init__(
        self,
        *,
        engine: GenerationEngine,
        admission: Admission,
        observer: LiveObserver,
        table: StreamTable,
        endings: Endings,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._observer = observer
        self._table = table
        self._endings = endings
        self._clock = clock
        self._recovery = Recovery()
        self._exact = False  # what the engine promises

    def add(self, stream: Stream) -> None:
        """A new one, or an adopted one: the engine continues after what its log holds."""
        self._recovery.add(stream.id)
        self._send()

    def let_go(self, id: str) -> None:
        """Another replica owns it."""
        self._engine.cancel(id)
        self._forget(id)

    def cancel(self, stream: Stream, outcome: str) -> None:
        """End a stream now; the engine frees its sequence within a step."""
        self._engine.cancel(stream.id)
        if stream.cancel(outcome, self._clock()):
            self._ended(stream)

    def fail(self, stream: Stream, error: RillError) -> None:
        """End it with this failure."""
        self._engine.cancel(stream.id)
        if stream.fail(error, self._clock()):
            self._ended(stream)

    def fail_all(self, make: Callable[[], RillError]) -> None:
        """End every one with this failure."""
        for stream in self._table.in_role(Role.MADE):
            self.fail(stream, make())

    def time_out(self, queue_timeout_s: float) -> None:
        """End those that have waited this long; and the wait for a suspect."""
        self._send()
        now = self._clock()
        for stream in [s for s in self._table.in_role(Role.MADE) if s.times.started_at is None]:
            if now - stream.times.waits_since >= queue_timeout_s:
                message = (
                    f"The request waited {queue_timeout_s:g} s in the queue without being started; try again later."
                )
                wait_s = min(self._admission.wait_s(self._admission.n_waiting), MAX_RETRY_AFTER_S)
                self.fail(stream, QueueTimeout(message, retry_after_s=max(1.0, wait_s)))

    # From the engine.

    def ready(self, ready: Ready) -> None:
        """It accepts work now."""
        self._exact = ready.exact
        self._admission.open(n_seq=ready.n_seq)
        self._recovery.up()
        self._send()

    def deliver(self, frame: Accepted | Rejected | Started | Step) -> None:
        """One frame from the engine. Frames for streams that have ended are ignored."""
        if isinstance(frame, Step):
            self._step(frame)
        elif isinstance(frame, Started):
            for id in frame.ids:
                self._recovery.starts(id)
        elif (stream := self._table.made(frame.id)) is None:
            return
        elif isinstance(frame, Accepted):
            self._recovery.waits(frame.id)
            stream.accept(frame.n_prompt, self._admission.wait_s(stream.ticket.place))
        else:
            prompt = "messages" if stream.route == "/v1/chat/completions" else "prompt"
            self.fail(stream, refused_by_engine(frame.code, frame.message, frame.param or prompt, frame.counts))

    def lost(self, shut: Callable[[], Refused], stays_down: bool, kind: Kind = Kind.CRASH) -> None:
        """It died, in this way: refuse new streams. Live ones continue when it is back, except one that kills it each
        time; if it stays down none can."""
        self._admission.shut(shut)
        for id in self._recovery.down(kind):
            self._crashed(id, "The engine died each time it ran this request alone.")
        for stream in self._table.in_role(Role.MADE) if stays_down else []:
            self._crashed(stream.id, "The engine died too often; it stays down for a while.")

    def _crashed(self, id: str, message: str) -> None:
        if stream := self._table.made(id):
            self.fail(stream, EngineCrash(message, retry_after_s=5.0))

    def _ended(self, stream: Stream) -> None:
        self._endings.ended(stream)
        self._forget(stream.id)

    def _forget(self, id: str) -> None:
        self._recovery.end(id)
        self._send()  # the next suspect, if this one was on trial

    def _send(self) -> None:
        """Submit what is due, each with its delivered tokens."""
        for id in self._recovery.due(self._clock()):
            if (stream := self._table.made(id)) is not None:
                if stream.n_lives:
                    self._observer.continued()
                self._engine.submit(stream.submission(self._exact))

    def _step(self, step: Step) -> None:
        now, made = self._clock(), self._table.made
        for id, position in step.queued:
            if stream := made(id):
                self._recovery.waits(id)
                stream.queued(position, self._admission.wait_s(position))
        for id, n_done, n_prompt in step.prefill:
            if stream := made(id):
                self._recovery.starts(id)
                stream.prefill(n_done, n_prompt, now)
        last = {id: at for at, (id, *_) in enumerate(step.deltas)} if step.finished else {}
        ends = {last[finish.id] for finish in step.finished if finish.id in last}
        for at, (id, tokens, said) in enumerate(step.deltas):
            if stream := made(id):
                self._recovery.proves(id)
                stream.delta(tokens, said, now, is_last=at in ends)
        for finish in step.finished:
            if (stream := made(finish.id)) and stream.finish(finish, now):
                self._ended(stream)
        self._observer.step(step)
        self._send()

    def __repr__(self) -> str:
        return f"<Live {self._table.count(Role.MADE)} streams, {self._recovery!r}>"
