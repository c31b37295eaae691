from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from service.protocol.deaths import Kind
from service.protocol.frames import Accepted, Ready, Rejected, Started, Step, Submit
from service.protocol.options import Options
from service.protocol.said import text_of
from service.protocol.sampling import Sampling
from service.supervision.supervisor import (
    CRASH_WINDOW_S,
    DOWN_S,
    MAX_CRASHES,
    STOPPED_S,
    TABLE,
    State,
    Supervisor,
    pause_s,
)
from tests.fakes import STORY, Clock
from tests.patience import PATIENCE_S

SCRIPT = str(Path(__file__).parents[1] / "scripted_engine.py")


class Sink:
    """Records the engine's frames and losses, and lets a test wait for them."""

    def __init__(self) -> None:
        self.received: list[object] = []
        self.kinds: list[Kind] = []  # of its losses
        self._more = asyncio.Condition()

    def ready(self, ready: Ready, /) -> None:
        self._record(ready)

    def deliver(self, frame: Accepted | Rejected | Started | Step, /) -> None:
        self._record(frame)

    def lost(self, stays_down: bool, kind: Kind, /) -> None:
        self.stays_down = stays_down
        self.kinds.append(kind)
        self._record("lost")

    def _record(self, what: object) -> None:
        self.received.append(what)
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._more:
            self._more.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._more:
            await self._more.wait_for(condition)

    async def readies(self, n: int) -> None:
        await self.until(lambda: sum(isinstance(what, Ready) for what in self.received) >= n)

    async def losses(self, n: int) -> None:
        await self.until(lambda: self.received.count("lost") >= n)

    def text(self, id: str) -> str:
        steps = [what for what in self.received if isinstance(what, Step)]
        return "".join(text_of(said) for step in steps for of, _, said in step.deltas if of == id)


async def prepare() -> Options:
    return Options(model="", n_batch=77)


def scripted(behaviour: str) -> list[str]:
    return [sys.executable, SCRIPT, behaviour]


Start = Callable[..., Awaitable[tuple[Supervisor, Sink]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start("behaviour", next behaviours…)`: the first process has the first behaviour, the last one repeats.
    Unless the test has a clock, time stands still: an engine that a busy machine delays is not silent."""
    started: list[Supervisor] = []

    async def go(
        *behaviours: str,
        timeout_s: float = 5.0,
        step_timeout_s: float = 5.0,
        load_timeout_s: float = 20.0,
        clock: Clock | None = None,
    ) -> tuple[Supervisor, Sink]:
        sink = Sink()
        behaviours_left = list(behaviours)

        def pause(crashes: list[float], now: float) -> float:
            if len(behaviours_left) > 1:
                del behaviours_left[0]
            supervisor._command = scripted(behaviours_left[0])
            return 0.0

        supervisor = Supervisor(
            command=scripted(behaviours_left[0]),
            prepare=prepare,
            sink=sink,
            timeout_s=timeout_s,
            step_timeout_s=step_timeout_s,
            load_timeout_s=load_timeout_s,
            pause_s=pause,
            hopeless=lambda reason: sink._record(f"hopeless: {reason}"),
            clock=clock or Clock(),
        )
        started.append(supervisor)
        supervisor.start()
        return supervisor, sink

    yield go
    for supervisor in started:
        await supervisor.stop()


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reason for each process's end, as it was logged."""
    return [getattr(record, "reason", "") for record in caplog.records if record.message == "engine ended"]


def submit(id: str) -> Submit:
    return Submit(id=id, sampling=Sampling(seed=1), text="hi")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_is_submitted_is_answered(start: Start) -> None:
    """Frames are sent both ways, in order."""
    engine, sink = await start("obedient")
    await sink.readies(1)
    assert State.READY is engine.state
    engine.submit(submit("a"))
    await sink.until(lambda: any(isinstance(what, Step) and what.finished for what in sink.received))
    assert "".join(STORY) == sink.text("a")
    assert [Ready, Accepted, Step] == [type(what) for what in sink.received[:3]]


async def test_stop_ends_the_process(start: Start) -> None:
    """After stop() no child is left, and no loss is reported."""
    engine, sink = await start("obedient")
    await sink.readies(1)
    pid = engine.pid
    assert pid is not None
    await engine.stop()
    assert not alive(pid)
    assert (engine.state, sink.received.count("lost")) == (State.STOPPED, 0)


async def test_a_killed_engine_is_reported_and_replaced(start: Start) -> None:
    """kill -9: the loss is reported once, another process takes over, and it answers."""
    engine, sink = await start("obedient")
    await sink.readies(1)
    first = engine.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await sink.readies(2)
    assert sink.received.count("lost") == 1
    assert first != engine.pid and not alive(first)
    engine.submit(submit("b"))
    await sink.until(lambda: any(isinstance(what, Step) and what.finished for what in sink.received))
    assert "".join(STORY) == sink.text("b")


async def test_the_next_engine_keeps_measured_choices(start: Start) -> None:
    """It is sent the same options, except that what was measured once is not measured again while streams depend on it:
    a different matrix multiplication gives different texts."""
    engine, sink = await start("obedient")
    await sink.readies(1)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await sink.readies(2)
    first, second = (what for what in sink.received if isinstance(what, Ready))
    assert second.buffer_types == first.buffer_types != ""
    assert first.n_batch == second.n_batch == 77


async def test_a_crash_in_the_middle_of_a_stream(start: Start) -> None:
    """The text so far is delivered, then the loss is reported."""
    engine, sink = await start("crash", "obedient")
    await sink.readies(1)
    engine.submit(submit("a"))
    await sink.losses(1)
    assert STORY[0] == sink.text("a")
    await sink.readies(2)


async def lost_in_time(sink: Sink, clock: Clock) -> None:
    """Lets time pass until the engine is given up, and no longer."""
    async with asyncio.timeout(PATIENCE_S):
        while "lost" not in sink.received:
            clock.advance(0.1)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("behaviour", "limits", "reason"),
    [
        ("hang", {"timeout_s": 0.4}, "no heartbeat for 0.4 s"),
        ("stuck", {"step_timeout_s": 0.3, "timeout_s": 1e6}, "one step took more than 0.3 s"),
        ("garbage", {"timeout_s": 1e6}, "it sent an invalid frame"),
    ],
)
async def test_an_unresponsive_engine_is_killed(
    start: Start, behaviour: str, limits: dict[str, float], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After silence, a step without end or an invalid frame the process is killed and replaced."""
    engine, sink = await start(behaviour, "obedient", clock=(clock := Clock()), **limits)
    await sink.readies(1)
    first = engine.pid
    assert first is not None
    engine.submit(submit("a"))
    await lost_in_time(sink, clock)
    await sink.readies(2)
    assert not alive(first)
    ended = next(record for record in caplog.records if record.message == "engine ended")
    assert reason in getattr(ended, "reason", "")


async def test_a_stopped_process_is_killed(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """SIGSTOP shows in the process's state, long before silence would; it can still be killed, and no request is
    blamed."""
    engine, sink = await start("obedient", timeout_s=1e6, clock=(clock := Clock()))
    await sink.readies(1)
    first = engine.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    await lost_in_time(sink, clock)
    await sink.readies(2)
    assert not alive(first)
    assert (sink.kinds, reasons(caplog)) == ([Kind.OUTSIDE], ["it was stopped (SIGSTOP) and not continued"])


async def test_a_continued_process_is_kept(start: Start) -> None:
    """A process that was stopped for a moment continues as before."""
    engine, sink = await start("obedient", timeout_s=1e6, clock=(clock := Clock()))
    await sink.readies(1)
    first = engine.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    clock.advance(STOPPED_S / 2)
    os.kill(first, signal.SIGCONT)
    engine.submit(submit("a"))
    await sink.until(lambda: bool(sink.text("a")))
    assert engine.pid == first


async def test_a_load_without_progress_is_given_up(start: Start) -> None:
    """An engine that sends nothing while it loads is killed after load_timeout_s, and the next one started."""
    _, sink = await start("mute", "obedient", load_timeout_s=0.4, clock=(clock := Clock()))
    await lost_in_time(sink, clock)
    await sink.readies(1)
    assert sink.received[0] == "lost"


async def test_a_load_that_only_beats_is_given_up(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Heartbeats, and the same progress reported again, do not count as progress."""
    engine, sink = await start("slow", "obedient", load_timeout_s=3.0, clock=(clock := Clock()))
    await lost_in_time(sink, clock)
    await sink.readies(1)
    assert sink.received[0] == "lost"
    assert sink.kinds[0] is Kind.LOADING
    assert "no progress for 3 s" in reasons(caplog)[0]
    assert engine.reason == ""


async def test_a_load_with_progress_may_take_long(start: Start) -> None:
    """Each progress restarts the timeout."""
    engine, sink = await start("late", load_timeout_s=3.0, clock=(clock := Clock()))
    seen = 0.0
    while not any(isinstance(what, Ready) for what in sink.received):
        await asyncio.sleep(0.01)  # for the process: time passes only with its progress
        if engine.progress > seen:
            seen = engine.progress
            clock.advance(2.0)
    assert clock() > 3.0
    assert "lost" not in sink.received


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        ("crash", Kind.OUTSIDE, "it died of SIGKILL (exit status -9): it was killed from outside"),
        ("aborts", Kind.CRASH, "llama.cpp aborted, because of its input or a lack of memory: ggml.c:7: "),
        ("errs", Kind.OWN, "an internal error: ZeroDivisionError: division by zero at speculation.py:61 observe"),
        ("garbage", Kind.OWN, "it sent an invalid frame"),
        ("hang", Kind.HANG, "no heartbeat for 1 s"),
    ],
)
async def test_a_death_at_work_has_a_kind_and_a_reason(
    start: Start, behaviour: str, kind: Kind, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One error line has the reason, and so has /readyz; the sink gets the kind, which says what may be to blame."""
    engine, sink = await start(behaviour, "slow", timeout_s=1.0, clock=(clock := Clock()))
    await sink.readies(1)
    engine.submit(submit("a"))
    if kind is Kind.HANG:
        await lost_in_time(sink, clock)
    await sink.losses(1)
    assert sink.kinds == [kind]
    assert reason in engine.reason
    assert reasons(caplog) == [engine.reason]


async def test_an_illegal_instruction_is_reported_with_the_build(start: Start) -> None:
    """Also during the load, which computes the first matrix product."""
    engine, sink = await start("illegal", "slow")
    await sink.losses(1)
    assert sink.kinds == [Kind.LOADING]
    assert "it died of SIGILL (exit status -4)" in engine.reason
    assert "AVX2, AMX_INT8" in engine.reason and "CMAKE_ARGS=-DGGML_NATIVE=OFF" in engine.reason


async def test_last_words_are_logged_with_the_death(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The last lines that it wrote to stderr, at the level of an error."""
    engine, sink = await start("aborts", "slow")
    await sink.readies(1)
    engine.submit(submit("a"))
    await sink.losses(1)
    (ended,) = [record for record in caplog.records if record.message == "engine ended"]
    assert getattr(ended, "last_words", []) == ["/build/ggml.c:7: GGML_ASSERT(a > 0) failed"]


async def test_deaths_with_work_between_them_are_not_a_loop(start: Start) -> None:
    """Killed again and again, but each time after a token: it does not stay down."""
    engine, sink = await start("crash")
    for n in range(1, MAX_CRASHES + 3):
        await sink.readies(n)
        engine.submit(submit("a"))
        await sink.losses(n)
        assert not sink.stays_down


async def test_deaths_without_work_between_them_are_a_loop(start: Start) -> None:
    """Failed loads, or engines that die before a token: the fifth within a minute stays down."""
    _, sink = await start("dies")
    await sink.losses(MAX_CRASHES)
    assert sink.stays_down


async def test_one_that_ends_at_once_is_replaced(start: Start) -> None:
    """A death before it is ready is a loss, too, so that waiting requests are notified."""
    _, sink = await start("dies", "obedient")
    await sink.readies(1)
    assert sink.received[0] == "lost"


async def test_fatal_has_the_reason(start: Start) -> None:
    """The engine's Fatal is the reason that /readyz shows."""
    engine, sink = await start("fatal", "slow")
    await sink.losses(1)
    assert engine.reason == "no such model"


async def test_a_final_fatal_is_not_retried(start: Start) -> None:
    """Before any engine was ready it is the end: the loss says that the engine stays down, then the reason follows."""
    engine, sink = await start("final")
    await sink.until(lambda: len(sink.received) == 2)
    assert (sink.received, sink.stays_down) == (["lost", "hopeless: no such model"], True)
    assert (engine.state, engine.n_restarts) == (State.ENGINE_DOWN, 0)


async def test_a_final_fatal_is_retried_after_a_ready_engine(start: Start) -> None:
    """What was possible once may be possible again: another process may have taken the memory only in between."""
    engine, sink = await start("obedient", "final", "obedient")
    await sink.readies(1)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await sink.readies(2)
    assert sink.received.count("lost") == 2


async def test_loading_shows_its_progress(start: Start) -> None:
    """`progress` is the engine's own; nothing is submitted meanwhile."""
    engine, _ = await start("slow")
    async with asyncio.timeout(PATIENCE_S):
        while not engine.progress:  # noqa: ASYNC110  # it has no event of its own
            await asyncio.sleep(0.01)
    assert (engine.state, engine.progress) == (State.LOADING, 0.5)


async def test_an_unavailable_model_is_retried() -> None:
    """A `prepare` that raises counts as a crash: its message is the reason, and the next attempt calls it again."""
    sink = Sink()
    attempts = 0

    async def prepare() -> Options:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("no network")
        return Options(model="")

    engine = Supervisor(command=scripted("obedient"), prepare=prepare, sink=sink, pause_s=lambda crashes, now: 0.0)
    engine.start()
    try:
        await sink.losses(1)
        assert engine.reason == "no network"
        await sink.readies(1)
        assert (attempts, engine.reason) == (3, "")
    finally:
        await engine.stop()


async def test_options_that_are_not_utf_8() -> None:
    """A path that is not UTF-8 is a reason, too, and no process is left."""
    sink = Sink()

    async def prepare() -> Options:
        return Options(model="\udcff.gguf")

    engine = Supervisor(command=scripted("obedient"), prepare=prepare, sink=sink, pause_s=lambda crashes, now: 60.0)
    engine.start()
    try:
        await sink.losses(1)
        assert "utf-8" in engine.reason and engine.pid is None
    finally:
        await engine.stop()


async def test_a_download_does_not_count_as_loading() -> None:
    """However long the download takes, the load has its whole timeout."""
    sink, clock = Sink(), Clock()

    async def prepare() -> Options:
        clock.advance(10_000)
        return Options(model="")

    engine = Supervisor(command=scripted("obedient"), prepare=prepare, sink=sink, load_timeout_s=600.0, clock=clock)
    engine.start()
    try:
        await sink.readies(1)
        assert "lost" not in sink.received
    finally:
        await engine.stop()


async def test_a_command_that_does_not_exist() -> None:
    """No process is started: there is a reason, and no exception."""
    sink = Sink()
    command = ["/nonexistent/engine"]
    engine = Supervisor(command=command, prepare=prepare, sink=sink, pause_s=lambda crashes, now: 60.0)
    engine.start()
    try:
        await sink.losses(1)
        assert "can't be started" in engine.reason
        assert State.ENGINE_DOWN is engine.state
    finally:
        await engine.stop()


async def test_what_the_process_writes_to_stderr_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """llama.cpp's last lines, a log line each."""
    caplog.set_level(logging.INFO)
    _, sink = await start("chatty")
    await sink.readies(1)
    async with asyncio.timeout(PATIENCE_S):
        while "ggml says hello" not in [getattr(r, "line", "") for r in caplog.records]:  # noqa: ASYNC110  # a log
            await asyncio.sleep(0.01)


async def test_submitting_while_it_is_down_is_no_error(start: Start) -> None:
    """Frames are dropped: the streams were notified by `lost`."""
    engine, _ = await start("dies")
    engine.submit(submit("a"))
    engine.cancel("a")


def test_the_fifth_crash_delays_the_restart() -> None:
    """There is no pause before it, since readers wait; five within a minute: it stays down and is retried slowly."""
    now = 1000.0
    pauses = [pause_s([now] * n, now) for n in range(1, MAX_CRASHES + 2)]
    assert pauses == [0.0, 0.0, 0.0, 0.0, DOWN_S, DOWN_S]


def test_old_crashes_do_not_count() -> None:
    """Only those of the last minute do."""
    assert pause_s([0.0, 1.0, 2.0, 3.0, CRASH_WINDOW_S + 10], CRASH_WINDOW_S + 10) == 0.0


def test_every_state_can_be_left_and_stopped() -> None:
    """The table has each state, and stop is possible from every state but STOPPED."""
    assert set(State) == set(TABLE)
    assert all(State.STOPPED in nexts for state, nexts in TABLE.items() if state is not State.STOPPED)
