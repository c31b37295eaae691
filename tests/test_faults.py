"""Each known way in which llama.cpp ends a process, caused by one request among others."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import pytest
import pytest_asyncio

from service.api.server import listen
from service.app import Rill
from service.protocol.options import Options
from service.settings import Settings
from service.supervision.supervisor import DOWN_S, MAX_CRASHES, State, Supervisor, pause_s
from tests.engine import tiny
from tests.events import Event, numbers, parse, text
from tests.fakes import Clock
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

T = TypeVar("T")

SEGV, ABRT = "it died of SIGSEGV (exit status -11)", "it died of SIGABRT (exit status -6)"
OURS = "an internal error: ZeroDivisionError at faulty_engine.py"
# The suspect's prompt, and how the engine's process ends by it (llama-cpp-python 0.3.36, on a CPU).
DEADLY = {
    "fault:deep_grammar": {SEGV},
    "read:deep_grammar": {SEGV},
    "fault:null_grammar": {SEGV},
    "fault:piece_beyond_the_vocabulary": {ABRT},
    "read:piece_beyond_the_vocabulary": {ABRT},
    "fault:batch_too_large": {ABRT},
    "fault:no_logits": {ABRT},
    "fault:nothing_selects": {ABRT},
    "fault:forbidden_token": {ABRT},
    "fault:early_end": {ABRT},
    # Two threads on one context are not among them: they share one pool's barrier, where their race may hang instead.
    "fault:out_of_memory": {ABRT},
    "fault:not_ours": {OURS},
}
# Cases for which llama.cpp returns a status or, with NaN, the vocabulary's last token for ever.
SAFE = [
    "fault:bad_token",
    "fault:bad_sequence",
    "fault:position_gap",
    "fault:empty_batch",
    "fault:no_room",
    "fault:nan_temperature",
]
NEIGHBOURS = [
    {
        "prompt": f"the fox {i}",
        "temperature": 0.9 * (i % 2),
        "seed": i,
        "frequency_penalty": 0.3 * (i % 3),
        "max_tokens": 150,
    }
    for i in range(6)
]


@dataclass
class Service:
    """The real front with the real supervisor, and a client of it."""

    rill: Rill
    engine: Supervisor
    clock: Clock
    client: aiohttp.ClientSession

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.engine.state is not State.READY:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def until_it_works(self) -> None:
        """Until this engine has generated a token, or has no work left: what a reader gets may be from an earlier
        engine."""
        await self.until_ready()
        async with asyncio.timeout(PATIENCE_S):
            while self.rill.streams.n_made and not self.engine._works:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        pid = self.engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while self.engine.pid == pid:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.01)

    async def kill_while_it_loads(self) -> None:
        async with asyncio.timeout(30):
            while self.engine.pid is None or self.engine.state is not State.LOADING:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0)
        await self.kill()

    async def admitted(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        response = await self.client.post("/stream", json=body)
        assert response.status == 200, await response.text()
        return response

    async def read(self, response: aiohttp.ClientResponse) -> list[Event]:
        events = parse(await response.read())
        assert numbers(events, response.headers["X-Stream-Id"]) == list(range(len(events)))
        return events

    async def events(self, body: dict[str, Any]) -> list[Event]:
        return await self.read(await self.admitted(body))

    async def among_neighbours(self, suspect: Awaitable[T]) -> tuple[list[tuple[str, str]], T]:
        """The neighbours' texts and ends, and the result of the suspect, which is sent when all neighbours have been
        admitted: during a restart of the engine no request is admitted."""
        responses = await asyncio.gather(*map(self.admitted, NEIGHBOURS))
        all_events, fate = await asyncio.gather(asyncio.gather(*map(self.read, responses)), suspect)
        return [(text(events), events[-1].name) for events in all_events], fate

    async def failure(self, prompt: str) -> dict[str, Any]:
        """The error with which this request ends, before its first event or as its last one."""
        async with self.client.post("/stream", json={"prompt": prompt, "max_tokens": 50}) as response:
            body = await (response.read() if response.status == 200 else response.json())
        error: dict[str, Any] = (body if isinstance(body, dict) else parse(body)[-1].json())["error"]
        return error


def quick(crashes: list[float], now: float) -> float:
    """The supervisor's own pauses, without those that only take time."""
    return pause if (pause := pause_s(crashes, now)) == DOWN_S else 0.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Its engine follows the prompts' commands (faulty_engine.py). Its clock stands still: a minute passes between two
    tests."""
    clock = Clock()
    model = tiny.write(tmp_path_factory.mktemp("model") / "endless.gguf", endless=True)

    async def prepare() -> Options:
        return Options(model=str(model), n_threads=1, kv_type="bf16")

    def engine(sink: Rill) -> Supervisor:
        command = [sys.executable, "-m", "tests.faulty_engine"]
        return Supervisor(command=command, prepare=prepare, sink=sink, pause_s=quick, clock=clock, timeout_s=1e6)

    rill = Rill(Settings(), engine)
    assert isinstance(rill.engine, Supervisor)
    runner, url = await listen(rill.app, "127.0.0.1", 0)
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as client:
        yield Service(rill, rill.engine, clock, client)
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def ready(service: Service) -> Service:
    service.clock.advance(100)
    await service.until_ready()
    return service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(service: Service) -> list[tuple[str, str]]:
    await service.until_ready()
    return (await service.among_neighbours(asyncio.sleep(0)))[0]


def deaths(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The reasons for which the engine's processes ended."""
    return [getattr(record, "reason", "") for record in caplog.records if record.message == "engine ended"]


@pytest.mark.parametrize("prompt", DEADLY)
async def test_a_deadly_request_ends_one_stream(
    ready: Service, undisturbed: list[tuple[str, str]], prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The suspect fails when it has killed the engine alone, three times for our own errors; every neighbour continues
    to the same text as undisturbed; and the next request is served."""
    caplog.set_level(logging.ERROR, "service.supervisor")
    neighbours, error = await ready.among_neighbours(ready.failure(prompt))
    reasons = deaths(caplog)
    assert len(reasons) <= (5 if prompt == "fault:not_ours" else 3)
    assert all(any(reason.startswith(end) for end in DEADLY[prompt]) for reason in reasons)
    assert error["code"] == "engine_crash"
    assert neighbours == undisturbed
    await ready.until_ready()  # in case they ended before the suspect killed the engine
    assert text(await ready.events(NEIGHBOURS[1])) == undisturbed[1][0]


@pytest.mark.parametrize("prompt", SAFE)
async def test_a_safe_fault_affects_no_other(ready: Service, undisturbed: list[tuple[str, str]], prompt: str) -> None:
    """llama.cpp returns an error, and the engine's process continues normally."""
    pid = ready.engine.pid
    neighbours, suspect = await ready.among_neighbours(ready.events({"prompt": prompt, "max_tokens": 50}))
    assert neighbours == undisturbed
    assert suspect[-1].name == "done"
    assert ready.engine.pid == pid


async def test_kills_with_work_between_them(
    ready: Service, undisturbed: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is killed externally, streams that make progress between two kills end normally."""
    caplog.set_level(logging.ERROR, "service.supervisor")
    # At this pace each engine generates 19 tokens at once, which leaves some for the last.
    async with ready.client.post("/stream", json=NEIGHBOURS[1] | {"pace": 15}) as response:
        for _ in range(MAX_CRASHES + 2):
            await ready.until_it_works()
            await ready.kill()
        raw = await response.read()
    assert len(deaths(caplog)) == MAX_CRASHES + 2
    assert (text(parse(raw)), parse(raw)[-1].name) == undisturbed[1]


async def test_five_loads_that_fail_in_a_minute(ready: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Streams fail properly, /readyz and new requests get 503, and no engine is started for half a minute."""
    caplog.set_level(logging.ERROR, "service.supervisor")
    async with ready.client.post("/stream", json={"prompt": "x", "pace": 1}) as response:
        await response.content.readuntil(b'"text"')
        await ready.kill()  # this engine was working
        for _ in range(MAX_CRASHES):
            await ready.kill_while_it_loads()
        assert parse(b"data: " + await response.read())[-1].json()["error"]["code"] == "engine_crash"
    assert len(deaths(caplog)) == MAX_CRASHES + 1
    assert [getattr(record, "restart_in_s", 0) for record in caplog.records][-1] == DOWN_S
    assert (ready.engine.state, ready.engine.pid) == (State.ENGINE_DOWN, None)
    async with ready.client.get("/readyz") as response:
        assert (response.status, (await response.json())["reason"]) == (503, "engine_down")
    async with ready.client.post("/stream", json={"prompt": "x"}) as response:
        assert response.status == 503 and "Retry-After" in response.headers
