"""The registry with fakes for its collaborators: an engine and an observer that record their calls, and a clock."""

from __future__ import annotations

from service.dialects.native import Native
from service.errors import NotReady
from service.protocol.frames import Accepted, Step, Submit
from service.protocol.sampling import Sampling
from service.replication.remote_streams import RemoteStreams
from service.streams.admission import Admission
from service.streams.registry import Limits, Streams
from service.streams.request import GenerationRequest
from service.streams.stream import Stream
from tests.fakes import Clock, finish, ready

ORDER = GenerationRequest(sampling=Sampling(seed=0), text="hi")


class Engine:
    """Records what it is sent."""

    def __init__(self) -> None:
        self.submitted: list[Submit] = []
        self.cancelled: list[str] = []

    def submit(self, submit: Submit, /) -> None:
        self.submitted.append(submit)

    def cancel(self, id: str, /) -> None:
        self.cancelled.append(id)


class Observer:
    """Records what it is notified of."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.outcomes: list[str] = []
        self.n_continued = 0

    def gap(self, gap_s: float, /) -> None:
        self.gaps.append(gap_s)

    def step(self, step: Step, /) -> None:
        pass

    def continued(self) -> None:
        self.n_continued += 1

    def closed(self, stream: Stream, /) -> None:
        self.outcomes.append(stream.outcome)


class House:
    """The registry with its fakes."""

    def __init__(self, **limits: float) -> None:
        self.clock, self.engine, self.observer = Clock(), Engine(), Observer()
        self.admission = Admission(n_seq=2, max_waiting=2, closed=lambda: NotReady("loading"))
        self.streams = Streams(
            engine=self.engine,
            admission=self.admission,
            observer=self.observer,
            limits=Limits(**limits),  # type: ignore[arg-type]  # the test says which
            clock=self.clock,
        )
        self.streams.live.ready(ready(n_seq=2))

    def open(self, *, resumable: bool = False, key: str | None = None, generation: GenerationRequest = ORDER) -> Stream:
        return self.streams.open(
            generation, Native(), route="/stream", arrived_at=self.clock(), resumable=resumable, key=key
        )

    def running(self, *, resumable: bool = False, key: str | None = None) -> Stream:
        stream = self.open(resumable=resumable, key=key)
        self.streams.live.deliver(Accepted(stream.id, 3, 100))
        self.streams.live.deliver(Step(prefill=[(stream.id, 3, 3)]))
        self.streams.live.deliver(Step(deltas=[(stream.id, [1], "x")]))
        return stream

    def finished(self, key: str | None = None) -> Stream:
        stream = self.running(key=key)
        self.streams.live.deliver(Step(finished=[finish(stream.id)]))
        return stream

    def remake(self, submit: Submit) -> Stream:
        """A stream of another replica."""
        remote = RemoteStreams(self.streams)
        return remote.remake(submit, Native(), route="/stream", tenant="", grace_s=30.0, arrived_at=0.0)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.streams.tick()
