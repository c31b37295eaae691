"""The engine's process: spawn, listen, watch its heartbeat, restart. It knows nothing of streams.

States and their transitions are in TABLE. A death is noticed by the socket's end, a stopped process by its state and
its silence, a hang by its silence (no frame for timeout_s, or one step that takes step_timeout_s), a stuck load by
load_timeout_s without progress. In each case the process is killed, waited for, and restarted after a pause of
`pause_s`. deaths.py classifies the death.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Protocol

from msgspec.structs import replace

from service.protocol.deaths import Kind
from service.protocol.frames import Accepted, Build, Cancel, Frame, Loading, Ready, Rejected, Started, Step, Submit
from service.protocol.options import Options
from service.supervision.connection import EngineConnection
from service.supervision.deaths import Death, judge
from service.supervision.process import Process

log = logging.getLogger("service.supervisor")

# Five deaths within a minute, without a token between them, are no accident: stay down, and retry only slowly.
CRASH_WINDOW_S = 60.0
MAX_CRASHES = 5
DOWN_S = 30.0
TURN_S = 0.05
STOPPED_S = 1.0  # how long a stopped process has to be continued: twice the time between two heartbeats


class State(StrEnum):
    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    ENGINE_DOWN = "engine_down"


TABLE: dict[State, set[State]] = {
    State.STOPPED: {State.LOADING},
    State.LOADING: {State.READY, State.ENGINE_DOWN, State.STOPPED},
    State.READY: {State.ENGINE_DOWN, State.STOPPED},
    State.ENGINE_DOWN: {State.LOADING, State.STOPPED},
}


class EngineListener(Protocol):
    """Gets the engine's frames, and a call when it is lost: for a moment, or for longer than any client waits."""

    def ready(self, ready: Ready, /) -> None: ...
    def deliver(self, frame: Accepted | Rejected | Started | Step, /) -> None: ...
    def lost(self, stays_down: bool, kind: Kind, /) -> None: ...


def pause_s(crashes: list[float], now: float) -> float:
    """Seconds until the next start, given the times of the deaths since it last worked: 0, since readers wait, until
    the fifth within a minute."""
    return DOWN_S if sum(now - at < CRASH_WINDOW_S for at in crashes) >= MAX_CRASHES else 0.0


class Supervisor:
    """Runs `command` with `--door FD` for ever, one process at a time; submit and cancel while it is READY.

    `prepare` is awaited once, before the first start, for the options that each process is sent first; if it raises,
    that counts as a crash and is tried again.
    `hopeless` gets the reason when the engine can't run with the settings and none ever did: that ends it.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        prepare: Callable[[], Awaitable[Options]],
        sink: EngineListener,
        timeout_s: float = 10.0,
        step_timeout_s: float = 120.0,
        load_timeout_s: float = 600.0,
        pause_s: Callable[[list[float], float], float] = pause_s,
        clock: Callable[[], float] = time.monotonic,
        hopeless: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.state = State.STOPPED
        self.progress = 0.0  # of loading
        self.info: Ready | None = None  # what is loaded, or was last
        self.digest = ""  # of the model's file, once it is there
        self.reason = ""  # why it is down, for people
        self.n_restarts = 0
        self.pid: int | None = None
        self._command, self._prepare = command, prepare
        self._options: Options | None = None  # what each process is sent first, once prepared
        self._sink = sink
        self._timeout_s = timeout_s
        self._step_timeout_s = step_timeout_s
        self._load_timeout_s = load_timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._hopeless = hopeless
        self._is_hopeless = False
        self._door: EngineConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._crashes: list[float] = []  # deaths since an engine last made a token
        self._features = ""  # of its build
        self._works = False  # this one has made a token
        self._advanced_at = 0.0  # when this load last progressed

    def start(self) -> None:
        """Spawn the engine and keep it running; returns at once."""
        self._task = asyncio.create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        """End the engine and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._become(State.STOPPED)

    def submit(self, submit: Submit) -> None:
        self._send(submit)

    def cancel(self, id: str) -> None:
        self._send(Cancel(id))

    def _send(self, frame: Frame) -> None:
        if self._door is not None:
            self._door.send(frame)

    async def _run(self) -> None:
        while True:
            self._become(State.LOADING)
            self.progress, self._works = 0.0, False
            death, lines = await self._one_life()
            self._fall(death)
            if self._is_hopeless:
                log.error("engine can't be started", extra={"reason": death.reason})
                return self._hopeless(self.reason)
            pause = self._pause_s(self._crashes, self._clock())
            words = {"last_words": lines[-5:]} if lines else {}
            log.error("engine ended", extra={"reason": death.reason, "kind": death.kind, "restart_in_s": pause} | words)
            self.n_restarts += 1
            await asyncio.sleep(pause)

    async def _one_life(self) -> tuple[Death, list[str]]:
        """Run one process from spawn to exit. Returns its death, and the last lines that it wrote."""
        door = EngineConnection(self._receive, self._clock)
        try:
            self._options = self._options or await self._prepare()
            process = await Process.spawn(self._command, self._options, door)
        except Exception as e:
            is_spawn = isinstance(e, OSError) and self._options is not None
            return Death(Kind.LOADING, f"it can't be started: {e}" if is_spawn else str(e)), []
        self.pid, self._door, self._advanced_at = process.pid, door, self._clock()
        try:
            silence = await self._watch(door, process)
            was_ready = self.state is State.READY
            self._become(State.ENGINE_DOWN)
            # Once one was ready, the next may be, too: another process may hold the memory now.
            self._is_hopeless = door.fatal is not None and door.fatal.is_final and self.info is None
        finally:
            self._door = None
            door.close()
            status = await process.end()
            self.pid = None
        lines = list(process.lines)
        death = judge(
            was_ready=was_ready,
            reason=door.ended.result(),
            fatal=door.fatal,
            silenced=silence,
            status=status if door.died else 0,
            features=self._features,
            stderr=lines,
        )
        return death, lines

    async def _watch(self, door: EngineConnection, process: Process) -> Death | None:
        """Wait for the socket's end (returns None), or for too long a silence (returns that death)."""
        look_s = min(self._timeout_s, self._step_timeout_s, self._load_timeout_s, 2 * STOPPED_S) / 4
        while True:
            try:
                async with asyncio.timeout(min(look_s, max(TURN_S, self._patience_s(door)))):
                    await asyncio.shield(door.ended)
                    return None
            except TimeoutError:
                pass
            if self._silence(door, process):
                # If we were suspended, its frames are still unread: check again after one loop iteration.
                await asyncio.sleep(TURN_S)
                if (silence := self._silence(door, process)) and not door.ended.done():
                    return silence

    def _silence(self, door: EngineConnection, process: Process) -> Death | None:
        """The death that its silence counts as; None: it may still be silent."""
        if self._clock() - door.heard_at >= STOPPED_S and process.is_stopped:
            return Death(Kind.OUTSIDE, "it was stopped (SIGSTOP) and not continued")
        if self._patience_s(door) < 0:
            if self.state is State.READY:
                return Death(Kind.HANG, f"no heartbeat for {self._timeout_s:g} s")
            return Death(
                Kind.LOADING, f"its load made no progress for {self._load_timeout_s:g} s (RILL_LOAD_TIMEOUT_S)"
            )
        if door.busy_s > self._step_timeout_s:
            return Death(Kind.HANG, f"one step took more than {self._step_timeout_s:g} s")
        return None

    def _patience_s(self, door: EngineConnection) -> float:
        """Seconds that it may stay silent; while loading, without progress, since heartbeats continue then."""
        if self.state is State.READY:
            return door.heard_at + self._timeout_s - self._clock()
        return self._advanced_at + self._load_timeout_s - self._clock()

    def _fall(self, death: Death) -> None:
        now = self._clock()
        recent = [] if self._works else [at for at in self._crashes if now - at < CRASH_WINDOW_S] + [now]
        self._crashes, self.reason = recent, death.reason
        self._become(State.ENGINE_DOWN)
        self._sink.lost(self._is_hopeless or len(recent) >= MAX_CRASHES, death.kind)

    def _receive(self, frame: Frame) -> None:
        if isinstance(frame, Step | Started | Accepted | Rejected):
            if self.state is State.READY:
                if isinstance(frame, Step) and (frame.deltas or frame.finished):
                    self._works = True
                self._sink.deliver(frame)
        elif isinstance(frame, Loading):
            if frame.progress != self.progress:  # which begins anew after a download's
                self._advanced_at = self._clock()
            self.progress = frame.progress
        elif isinstance(frame, Build):
            self._features = frame.features
        elif isinstance(frame, Ready):
            self.info, self.reason = frame, ""
            if self._options and frame.buffer_types:  # measured once: its streams' texts depend on it
                self._options = replace(self._options, buffer_types=frame.buffer_types)
            self._become(State.READY)
            self._sink.ready(frame)

    def _become(self, state: State) -> None:
        if state is not self.state:
            assert state in TABLE[self.state], (self.state, state)
            self.state = state

    def __repr__(self) -> str:
        return f"<Supervisor {self.state} pid {self.pid}, {self.n_restarts} restarts>"
