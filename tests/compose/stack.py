"""The project's own docker-compose.yml, run for real: its containers are started, queried and removed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import search_path

ROOT = Path(__file__).parents[2]
# The distribution's docker comes first: its command line includes BuildKit's client.
PATH = search_path()
BUILD_S = 2400  # llama.cpp for six kinds of CPU: 6 minutes of one core's time, several times that on busy cores


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 120) -> str:
    """A command's output; if it fails, an AssertionError with all of it."""
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
    """Waits for something that another process does, of which there is no notification."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        time.sleep(0.1)


@dataclass
class Stack:
    """One running docker-compose project."""

    project: str
    env: dict[str, str]
    port: int
    prometheus_port: int
    alertmanager_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def alertmanager(self) -> str:
        return f"http://127.0.0.1:{self.alertmanager_port}"

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
        """Everything that the containers of a service have printed."""
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
        """Runs a Python program inside a container of the service."""
        return docker("exec", container, "python", "-c", program)

    def metrics(self, container: str) -> dict[str, float]:
        """One replica's metrics, by series."""
        program = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics', timeout=5).read().decode())"
        )
        lines = [line for line in self.python(container, program).splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def known_replicas(self) -> set[str]:
        """The addresses to which nginx sends requests."""
        [nginx] = self.containers("nginx")
        text = docker("exec", nginx, "cat", "/tmp/nginx/replicas.conf")
        return {line.split()[1] for line in text.splitlines() if line}

    def addresses(self) -> set[str]:
        """The replicas' addresses in nginx's network."""
        networks = (self.inspect(c)["NetworkSettings"]["Networks"] for c in self.containers("service"))
        shared = [network for of_one in networks for name, network in of_one.items() if name.endswith("_default")]
        return {f"{network['IPAddress']}:8000" for network in shared if network["IPAddress"]}

    def scale(self, n: int) -> None:
        """Waits until n replicas are healthy and nginx knows exactly these."""
        self.compose("up", "-d", "--no-recreate", "--scale", f"service={n}", "service")
        until(lambda: all(self.healthy(c) for c in self.containers("service")))
        until(lambda: self.known_replicas() == self.addresses())


def engine_runs() -> bool:
    if shutil.which("docker", path=PATH) is None:
        return False
    done = subprocess.run(["docker", "info"], env=os.environ | {"PATH": PATH}, capture_output=True)
    return done.returncode == 0


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """A lock between the processes that run tests."""
    with (Path(tempfile.gettempdir()) / "rill-test-image.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def up(project: str, image: str, *services: str, **settings: str) -> Iterator[Stack]:
    """nginx, one replica with these settings, Redis and `services`, built if necessary; removed after use."""
    port, prometheus, alertmanager, grafana = (free_port() for _ in range(4))
    own = {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
    env = own | {
        "PATH": PATH,
        "DOCKER_BUILDKIT": "1",
        "COMPOSE_DOCKER_CLI_BUILD": "1",
        "RILL_IMAGE": image,
        "RILL_PUBLISH": f"127.0.0.1:{port}",
        "PROMETHEUS_PUBLISH": f"127.0.0.1:{prometheus}",
        "ALERTMANAGER_PUBLISH": f"127.0.0.1:{alertmanager}",
        "GRAFANA_PUBLISH": f"127.0.0.1:{grafana}",
    }
    env |= {f"RILL_{name.upper()}": value for name, value in settings.items()}
    one = Stack(f"{project}{os.getpid()}", env, port, prometheus, alertmanager)
    try:
        with one_at_a_time():  # the other processes find what one has built
            one.compose("build", "service", timeout_s=BUILD_S)
        one.compose("up", "-d", "nginx", "service", *services, timeout_s=300)
        until(lambda: one.known_replicas() == one.addresses())
        yield one
    finally:
        one.compose("down", "-v", "-t", "5")
