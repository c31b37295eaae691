"""The container's health check: it waits only while the model loads."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from service.api.server import listen
from service.health import main
from tests.conftest import Serve

SCRIPT = Path(__file__).parent.parent / "service" / "health.py"

Answering = Callable[..., Awaitable[int]]


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """`await answering(body, …)`: the port of a service whose /readyz returns these one after another, the last one for
    ever."""
    runners = []

    async def start(*bodies: Any) -> int:
        left = list(bodies)

        async def readyz(request: web.Request) -> web.Response:
            body = left.pop(0) if len(left) > 1 else left[0]
            return web.json_response(body)

        app = web.Application()
        app.add_routes([web.get("/readyz", readyz)])
        runner, url = await listen(app, "127.0.0.1", 0)
        runners.append(runner)
        return int(url.rpartition(":")[2])

    yield start
    for runner in runners:
        await runner.cleanup()


async def check(port: int, **waits: float) -> int:
    return await asyncio.to_thread(main, port, pause_s=0.0, **waits)


LOADING = {"ready": False, "reason": "loading", "progress": 0.1}


async def test_it_waits_while_the_model_is_loaded(answering: Answering) -> None:
    """However long loading takes: starting ends when streams are accepted, and not before."""
    assert await check(await answering(*[LOADING] * 20, {"ready": True})) == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"ready": False, "reason": "settings", "message": "RILL_N_SEQ: no"}, "RILL_N_SEQ: no\n"),
        ({"ready": False, "reason": "loading", "progress": 0, "message": "it died"}, "it died\n"),
        ({"ready": False, "reason": "engine_down", "message": "it died"}, "it died\n"),
        ({"ready": False, "reason": "draining"}, "draining\n"),
        ([], "no answer: ValueError\n"),
    ],
)
async def test_anything_else_is_unhealthy_at_once(
    answering: Answering, capsys: pytest.CaptureFixture[str], body: object, said: str
) -> None:
    """Wrong settings, a death, a drain: one line has the reason."""
    assert await check(await answering(body)) == 1
    assert capsys.readouterr().out == said


async def test_a_service_that_does_not_listen_yet() -> None:
    """It is waited for, since Python takes time to start, but not for ever."""
    with socket.socket() as sock:  # bound, and refusing connections until it listens
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert await check(port, listens_s=0.0) == 1
        checking = asyncio.create_task(check(port))
        await asyncio.sleep(0)
        sock.listen()
        connection, _ = await asyncio.to_thread(sock.accept)
        with connection:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b'{"ready": true}')
        assert await checking == 0


async def test_it_is_a_program_of_the_standard_library(serve: Serve) -> None:
    """Run as compose runs it, without the packages, against the real front."""
    service = await serve()
    port = service.url.rpartition(":")[2]
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-ISs", str(SCRIPT), port])
    assert done.returncode == 0
