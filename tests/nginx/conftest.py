"""A real nginx on loopback in front of scripted replicas, with the shipped configuration."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.nginx.upstream import Upstream
from tests.patience import PATIENCE_S
from tests.programs import find, missing

ROOT = Path(__file__).parents[2]
NGINX = find("nginx")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: needs more than Python (nginx, Docker, Chromium); CI skips none")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@dataclass
class Nginx:
    """One running nginx: its address, and everything that it has written."""

    port: int
    home: Path
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "out").read_text().splitlines()]

    @property
    def written(self) -> str:
        """Standard output, standard error, and every file that it made or was given."""
        return "\n".join(f.read_text(errors="replace") for f in self.home.rglob("*") if f.is_file())

    @property
    def errors(self) -> str:
        return (self.home / "err").read_text()

    @property
    def listens(self) -> bool:
        assert self.process.returncode is None, self.errors
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def workers(self) -> list[int]:
        """Its worker processes, also those of an earlier configuration."""
        pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
        tree: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(OSError):
                tree[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        children = {pid for pid, parent in tree.items() if parent == self.process.pid}
        served = [pid for pid, parent in tree.items() if parent in children | {self.process.pid}]
        return [pid for pid in served if b"nginx: worker" in cmdline(pid)]

    async def logged(self, n: int) -> list[dict[str, Any]]:
        """The access log once it has at least n lines: a line is written after the answer's last byte."""
        await until(lambda: len(self.access) >= n)
        return self.access


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Waits for something that another process does, of which there is no notification."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 (files and /proc have no notification to wait for)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(home: Path, *command: str, **env: str) -> AsyncIterator[Nginx]:
    """Starts nginx by `command`, waits until it listens, stops it at the end; its own errors fail the test."""
    port = int(env["RILL_LISTEN"].rpartition(":")[2])
    out, err = (os.open(home / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for name in ("out", "err"))
    process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=err, env=os.environ | env)
    os.close(out)
    os.close(err)
    nginx = Nginx(port, home, process)
    try:
        await until(lambda: nginx.listens)
        yield nginx
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
    assert "[emerg]" not in nginx.errors


@pytest.fixture
def in_front_of(tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Nginx]]:
    """`async with in_front_of(upstream, ...)`: nginx with a fixed list of replicas, without health checks."""
    if NGINX is None:
        pytest.skip(missing("nginx"))

    def start(*upstreams: Upstream) -> contextlib.AbstractAsyncContextManager[Nginx]:
        port = free_port()
        home = tmp_path / f"nginx-{port}"
        (home / "temp").mkdir(parents=True)
        shutil.copy(ROOT / "nginx" / "nginx.conf", home)
        (home / "listen.conf").write_text(f"listen 127.0.0.1:{port};")
        (home / "replicas.conf").write_text("".join(f"server {u.address} max_fails=0;\n" for u in upstreams))
        command = (NGINX or "", "-p", str(home), "-c", str(home / "nginx.conf"), "-g", "daemon off;")
        return running(home, *command, RILL_LISTEN=str(port))

    return start


@pytest.fixture
def watching(tmp_path: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Nginx]]:
    """`async with watching(upstream, ...)`: nginx as `nginx/start` runs it, which follows the replicas' readiness.

    programs: a folder whose programs it finds before the system's.
    """
    if NGINX is None:
        pytest.skip(missing("nginx"))

    def start(*upstreams: Upstream, programs: str = "") -> contextlib.AbstractAsyncContextManager[Nginx]:
        home = tmp_path / "watching"
        home.mkdir()
        return running(
            home,
            str(ROOT / "nginx" / "start"),
            RILL_LISTEN=f"127.0.0.1:{free_port()}",
            RILL_RUN=str(home / "run"),
            RILL_REPLICAS=" ".join(u.address for u in upstreams),
            PATH=f"{programs}:{os.environ['PATH']}:/usr/sbin".lstrip(":"),
        )

    return start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session:
        yield session
