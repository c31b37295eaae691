"""The real thing: images built, docker-compose up, one stack for all tests of a session, gone when they are done."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]
STANDINS = os.environ.get("RILL_STANDINS")  # a script that starts an engine and makes stand-ins for the base images
# The distribution's docker comes first: its command line brings BuildKit's client with it.
PATH = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"
BUILD_S = 2400  # llama.cpp for 14 kinds of CPU: 8 minutes on two idle cores, three times that on busy ones


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "e2e: needs a program beside Python (nginx, Redis, Docker, Chromium); CI skips none"
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 120) -> str:
    """What a command prints; if it fails, an AssertionError with all it said."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=env or os.environ | {"PATH": PATH},
        text=True,
        capture_output=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def docker(*arguments: str) -> str:
    return run("docker", *arguments)


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    """Waits for what another process does, which nothing in this one announces."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@dataclass
class Stack:
    """One running project of docker-compose."""

    project: str
    env: dict[str, str]
    port: int
    prometheus_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.prometheus_port}"

    def compose(self, *arguments: str, timeout_s: float = 300) -> str:
        program = ["docker-compose"] if shutil.which("docker-compose", path=PATH) else ["docker", "compose"]
        command = [*program, "-p", self.project, "--profile", "observe", *arguments]
        return run(*command, env=self.env, timeout_s=timeout_s)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        described: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return described[0]

    def healthy(self, container: str) -> bool:
        health: str = self.inspect(container)["State"]["Health"]["Status"]
        return health == "healthy"

    def logs(self, service: str) -> str:
        """Everything that the containers of a service have printed, as they printed it."""
        out = []
        for container in self.containers(service):
            done = subprocess.run(
                ["docker", "logs", container],
                env=os.environ | {"PATH": PATH},
                text=True,
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            out.append(done.stdout)
        return "".join(out)

    @property
    def access(self) -> list[dict[str, Any]]:
        """nginx's access log."""
        return [json.loads(line) for line in self.logs("nginx").splitlines() if line.startswith("{")]

    def python(self, container: str, program: str) -> str:
        """Runs a program inside a container of the service."""
        return docker("exec", container, "python", "-c", program)

    def metrics(self, container: str) -> dict[str, float]:
        """What one replica says of itself, series by series."""
        program = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics', timeout=5).read().decode())"
        )
        lines = [line for line in self.python(container, program).splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def known_replicas(self) -> set[str]:
        """The addresses that nginx sends requests to."""
        [nginx] = self.containers("nginx")
        text = docker("exec", nginx, "cat", "/tmp/nginx/replicas.conf")
        return {line.split()[1] for line in text.splitlines() if line}

    def addresses(self) -> set[str]:
        """The addresses that the replicas have where nginx is."""
        networks = (self.inspect(c)["NetworkSettings"]["Networks"] for c in self.containers("service"))
        shared = [network for of_one in networks for name, network in of_one.items() if name.endswith("_default")]
        return {f"{network['IPAddress']}:8000" for network in shared if network["IPAddress"]}

    def scale(self, n: int) -> None:
        """Waits until n replicas are healthy and are the ones that nginx knows."""
        self.compose("up", "-d", "--no-recreate", "--scale", f"service={n}", "service")
        until(lambda: all(self.healthy(c) for c in self.containers("service")))
        until(lambda: self.known_replicas() == self.addresses())


def engine_runs() -> bool:
    if shutil.which("docker", path=PATH) is None:
        return False
    done = subprocess.run(["docker", "info"], env=os.environ | {"PATH": PATH}, capture_output=True)
    return done.returncode == 0


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """nginx, one replica and Prometheus, healthy."""
    if STANDINS:
        run(STANDINS, timeout_s=900)
    elif not engine_runs():
        pytest.skip("no Docker engine runs here")
    port, prometheus, grafana = free_port(), free_port(), free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
    env = own | {
        "PATH": PATH,
        "DOCKER_BUILDKIT": "1",
        "COMPOSE_DOCKER_CLI_BUILD": "1",
        "RILL_IMAGE": "rill-test",
        "RILL_PUBLISH": f"127.0.0.1:{port}",
        "PROMETHEUS_PUBLISH": f"127.0.0.1:{prometheus}",
        "GRAFANA_PUBLISH": f"127.0.0.1:{grafana}",
    }
    one = Stack(f"rilltest{os.getpid()}", env, port, prometheus)
    try:
        one.compose("build", "service", timeout_s=BUILD_S)
        one.compose("up", "-d", "nginx", "service", "prometheus", timeout_s=300)
        until(lambda: one.known_replicas() == one.addresses())
        yield one
    finally:
        with contextlib.suppress(AssertionError):
            print(one.logs("service")[-4000:])
        one.compose("down", "-v", "-t", "5")


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


@dataclass
class Event:
    """One event of a stream, and when it was here (time.time())."""

    id: str
    name: str
    data: dict[str, Any]
    at: float


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream as they arrive; its ends are the caller's to judge."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            continue
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]), time.time())
            fields = {}


async def read_all(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in events(response)]


async def soon(condition: Callable[[], bool], within_s: float = 60) -> None:
    """`until` for a test that has streams open: they are read on meanwhile."""
    await asyncio.to_thread(until, condition, within_s)
