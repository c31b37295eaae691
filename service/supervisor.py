"""The engine's process: spawn, listen, watch its heartbeat, restart. It knows nothing of streams.

States and what moves them are in TABLE. A death is noticed by the door's end, a hang by its silence (no frame for
timeout_s, or one step that takes step_timeout_s); either way the process is killed, waited for, and started again
after a pause that `pause_s` decides.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol

from service.door import Door
from service.engine.protocol import Accepted, Cancel, Frame, Loading, Ready, Refused, Started, Step, Submit

log = logging.getLogger("service.supervisor")

# Five crashes within a minute are no accident: stay down, and try again only slowly.
CRASH_WINDOW_S = 60.0
MAX_CRASHES = 5
DOWN_S = 30.0
TURN_S = 0.05


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


class Sink(Protocol):
    """Who gets what the engine says, and is told when it is lost: for a moment, or for longer than anyone will wait."""

    def ready(self, ready: Ready, /) -> None: ...
    def deliver(self, frame: Accepted | Refused | Started | Step, /) -> None: ...
    def lost(self, stays_down: bool, /) -> None: ...


def pause_s(crashes: list[float], now: float) -> float:
    """Seconds until the next start, given the times of the past crashes: none, for readers wait, until the fifth within
    a minute."""
    return DOWN_S if sum(now - at < CRASH_WINDOW_S for at in crashes) >= MAX_CRASHES else 0.0


class Supervisor:
    """Runs `prepare`'s command with `--door FD` for ever, one process at a time; submit and cancel while it is READY.

    `prepare` is awaited once, before the first start; if it raises, that counts as a crash and is tried again.
    `hopeless` is told why when the engine can't do what the settings ask, before any engine could: that ends it.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[], Awaitable[list[str]]],
        sink: Sink,
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
        self._prepare = prepare
        self._command: list[str] = []
        self._sink = sink
        self._timeout_s = timeout_s
        self._step_timeout_s = step_timeout_s
        self._load_timeout_s = load_timeout_s
        self._pause_s = pause_s
        self._clock = clock
        self._hopeless = hopeless
        self._is_hopeless = False
        self._door: Door | None = None
        self._task: asyncio.Task[None] | None = None
        self._crashes: list[float] = []

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
            self.progress = 0.0
            reason = await self._one_life()
            if self._is_hopeless:
                log.error("engine can't be had", extra={"reason": reason})
                return self._hopeless(self.reason)
            pause = self._pause_s(self._crashes, self._clock())
            log.error("engine ended", extra={"reason": reason, "restart_in_s": pause})
            self.n_restarts += 1
            await asyncio.sleep(pause)

    async def _one_life(self) -> str:
        """From spawn to death; returns why it ended. The sink has been told, and the process is gone, by then."""
        try:
            self._command = self._command or await self._prepare()
        except Exception as e:
            return self._fall(str(e))
        ours, theirs = socket.socketpair()
        door = Door(self._receive, self._clock)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--door",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # a signal to our group is ours to answer: we drain first
                    env=_environment(),
                )
            self.pid = process.pid
        except OSError as e:
            ours.close()
            return self._fall(f"it can't be started: {e}")
        assert process.stderr is not None
        words = asyncio.create_task(_log_lines(process.stderr))
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: door, sock=ours)
            self._door = door
            reason = await self._watch(door)
            # Once one has served, the next may, too: what was free then is taken by a neighbour now.
            self._is_hopeless = door.is_final and self.info is None
            self._fall(reason)
        finally:
            self._door = None
            door.close()
            self.pid = None
            if process.returncode is None:
                process.kill()
            status = await process.wait()
            words.cancel()
        return f"{reason} (exit status {status})"

    async def _watch(self, door: Door) -> str:
        """Wait for the door's end, a broken frame or too long a silence; returns which."""
        look_s = min(self._timeout_s, self._step_timeout_s, self._load_timeout_s) / 4
        while True:
            try:
                async with asyncio.timeout(look_s):
                    return await asyncio.shield(door.ended)
            except TimeoutError:
                pass
            if self._is_silent(door):
                # If it was we who slept, its words are waiting to be read: look again after one turn of the loop.
                await asyncio.sleep(TURN_S)
                if self._is_silent(door):
                    return f"no heartbeat for {self._silence_limit_s():g} s"
            if door.busy_s > self._step_timeout_s:
                return f"one step took more than {self._step_timeout_s:g} s"

    def _is_silent(self, door: Door) -> bool:
        return self._clock() - door.heard_at > self._silence_limit_s()

    def _silence_limit_s(self) -> float:
        return self._timeout_s if self.state is State.READY else self._load_timeout_s

    def _fall(self, reason: str) -> str:
        now = self._clock()
        self._crashes = [at for at in self._crashes if now - at < CRASH_WINDOW_S] + [now]
        self.reason = reason
        self._become(State.ENGINE_DOWN)
        self._sink.lost(self._is_hopeless or len(self._crashes) >= MAX_CRASHES)
        return reason

    def _receive(self, frame: Frame) -> None:
        if isinstance(frame, Step | Started | Accepted | Refused):
            if self.state is State.READY:
                self._sink.deliver(frame)
        elif isinstance(frame, Loading):
            self.progress = frame.progress
        elif isinstance(frame, Ready):
            self.info, self.reason = frame, ""
            self._become(State.READY)
            self._sink.ready(frame)

    def _become(self, state: State) -> None:
        if state is not self.state:
            assert state in TABLE[self.state], (self.state, state)
            self.state = state

    def __repr__(self) -> str:
        return f"<Supervisor {self.state} pid {self.pid}, {self.n_restarts} restarts>"


def _environment() -> dict[str, str]:
    """Ours, less what is only ours: API keys are none of the engine's business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}


async def _log_lines(stream: asyncio.StreamReader) -> None:
    """What the engine's process writes to stderr (llama.cpp's last words among it), a log line each."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than the reader's buffer, and dropped by it
            continue
        if not line:
            return
        log.info("engine says", extra={"line": line.decode(errors="replace").rstrip()})


def command(model: str, options: dict[str, object]) -> list[str]:
    """The engine's command line; options that are None are left to the engine's own defaults."""
    line = [sys.executable, "-m", "service.engine", "--model", model]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line
