"""Shared by the front's tests: a service on loopback with a scripted engine, on the event loop used in production."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from service.api.server import listen
from service.app import Rill
from service.settings import Settings
from tests.events import Event, parse
from tests.fakes import ScriptedEngine
from tests.patience import PATIENCE_S
from tests.programs import missing, not_tested
from tests.redis_server import PROGRAM, RedisServer


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


# Read before the fixture below hides it. CI sets it: there a missing browser or container engine is a failure.
E2E_REQUIRED = os.environ.get("RILL_E2E") == "required"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser aborts its loads when a network interface appears or disappears, as with each started container: the
    browsers' tests come last, when most of compose's are over."""
    items.sort(key=lambda item: item.path.parent.name in ("e2e", "web", "examples"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where end-to-end tests are required, a skipped one fails."""
    report = yield
    if E2E_REQUIRED and report.skipped and item.get_closest_marker("e2e"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and RILL_E2E=required: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after everything else in the summary
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """The last line before the count says what was not tested, and how to install what it needs."""
    yield
    reports = terminalreporter.stats.get("skipped", [])
    if line := not_tested(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports):
        terminalreporter.line(line)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A developer's RILL_ variables must not affect the tests."""
    for name in [name for name in os.environ if name.startswith("RILL_")]:
        monkeypatch.delenv(name)
    yield


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty Redis for one test."""
    if PROGRAM is None:
        pytest.skip(missing("Redis"))
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@dataclass
class Service:
    """A running front: its address, its parts, and a client of it."""

    url: str
    rill: Rill
    engine: ScriptedEngine
    client: aiohttp.ClientSession
    runner: web.BaseRunner

    async def metric(self, line: str) -> float:
        """The value of one line of /metrics, named with its labels; 0 if there is none."""
        async with self.client.get("/metrics") as response:
            exposition = await response.text()
        for sample in exposition.splitlines():
            if sample.startswith(line + " "):
                return float(sample.rsplit(" ", 1)[1])
        return 0.0


async def read(service: Service, path: str, **headers: str) -> tuple[int, list[Event]]:
    """The status of a GET, and the events until its end."""
    async with service.client.get(path, headers=headers) as response:
        return response.status, parse(await response.read())


Serve = Callable[..., Awaitable[Service]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(clock=…, by_hand=…, **settings)`; everything started is closed after the test."""
    services: list[Service] = []

    async def start(
        *,
        by_hand: bool = False,
        starts_ready: bool = True,
        digest: str = "scripted",
        clock: Any = None,
        **settings: Any,
    ) -> Service:
        def engine(sink: Rill) -> ScriptedEngine:
            scripted = ScriptedEngine(sink, n_seq=settings.get("n_seq", 4))
            scripted.by_hand, scripted.starts_ready, scripted.digest = by_hand, starts_ready, digest
            return scripted

        more = {} if clock is None else {"clock": clock}
        more |= {name: settings.pop(name) for name in ("lease_s",) if name in settings}
        rill = Rill(Settings(**settings), engine, **more)
        runner, url = await listen(rill.app, "127.0.0.1", 0)
        assert isinstance(rill.engine, ScriptedEngine)
        client = aiohttp.ClientSession(
            url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
        )
        services.append(Service(url, rill, rill.engine, client, runner))
        return services[-1]

    yield start
    for service in services:
        await service.client.close()
        await service.runner.cleanup()
