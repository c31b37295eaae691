"""A real service process and a client of it, for use as it is or for fault injection."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.events import Event, parse
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Service:
    """A running service, a client of it, and its process."""

    url: str
    process: asyncio.subprocess.Process
    client: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def engine_pid(self) -> int:
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal, and returns the exit status."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()

    async def ready(self) -> dict[str, Any]:
        """Waits until it accepts streams."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.client.get("/readyz")).status != 200:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)
        async with self.client.get("/v1/models") as response:
            body: dict[str, Any] = await response.json()
            return body

    async def metric(self, name: str) -> float:
        async with self.client.get("/metrics") as response:
            (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", await response.text(), re.MULTILINE)
            return float(value)

    async def whole(self, **order: Any) -> list[Event]:
        """All events of an undisturbed stream."""
        async with self.client.post("/stream", json=order) as response:
            assert response.status == 200, await response.text()
            return parse(await response.read())


@asynccontextmanager
async def running(*command: str, log: Path | str = os.devnull, **settings: str) -> AsyncIterator[Service]:
    """`python -m service`, or `python` with another command, on a free port of this machine, terminated after use.

    log: a file for its stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
    environment |= {"RILL_PORT": "0"} | {f"RILL_{name.upper()}": value for name, value in settings.items()}
    with Path(log).open("ab") as stderr:  # noqa: ASYNC230  # a file that is there, or is made at once
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *(command or ("-m", "service"))),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            banner = await process.stdout.readuntil(b"'\n")
        (url, *_) = re.findall(r"http://[\d.]+:\d+", banner.decode())
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            url, connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
        ) as client:
            service = Service(url, process, client)
            await service.ready()
            yield service
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def stall(service: Service, ids: list[str], n: int) -> list[socket.socket]:
    """n readers of these streams that read nothing after the first bytes."""
    loop = asyncio.get_running_loop()
    sockets = []
    for id in itertools.islice(itertools.cycle(ids), n):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", service.port))
        await loop.sock_sendall(sock, f"GET /v1/streams/{id} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert (await loop.sock_recv(sock, 12)).endswith(b" 200")
        sockets.append(sock)
    return sockets


def orders(n: int, salt: int, max_tokens: int) -> list[dict[str, Any]]:
    """n requests that differ in everything that could be mixed up, every second one greedy."""
    topics = ("fox", "owl", "bear", "cat", "river", "moon", "ship", "tree")
    return [
        {
            "prompt": f"Tell me a story about a {topics[i % 8]}, number {salt + i}",
            "temperature": i % 2,
            "seed": salt + i,
            "frequency_penalty": 0.3 * (i % 3),
            "max_tokens": max_tokens,
            "ignore_eos": True,
        }
        for i in range(n)
    ]
