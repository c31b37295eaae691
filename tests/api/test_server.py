from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.api.server import KEEPALIVE_S, SEND_BUFFER_BYTES
from tests.conftest import Serve, Service
from tests.programs import find, missing

ROOT = Path(__file__).parents[2]
OWN_NETWORK = ["unshare", "--map-root-user", "--net"]
HAS_NETWORKS = find("unshare") is not None
HAS_NETWORKS = HAS_NETWORKS and subprocess.run([*OWN_NETWORK, "true"], capture_output=True).returncode == 0


@asynccontextmanager
async def accepted(service: Service) -> AsyncIterator[socket.socket]:
    """The service's end of the only connection, which reads a stream."""
    async with service.client.get("/stream", params={"prompt": "x"}):
        assert service.runner.server is not None
        (connection,) = service.runner.server.connections
        assert connection.transport is not None
        yield connection.transport.get_extra_info("socket")


async def test_the_kernel_holds_little_for_a_reader_that_stalls(serve: Serve) -> None:
    """Each connection's send buffer is bounded (the kernel doubles the given value); the default is megabytes."""
    async with accepted(await serve()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES


async def test_a_peer_that_vanished_is_found(serve: Serve) -> None:
    """The kernel gives up a connection when its peer acknowledges nothing for the write timeout."""
    async with accepted(await serve()) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [30_000, 7, 7]


@pytest.mark.skipif(not HAS_NETWORKS, reason="no network namespace to break")
@pytest.mark.skipif(find("ip") is None, reason=missing("ip"))
def test_hosts_that_vanish() -> None:
    """The network goes down under a stream and under a non-streamed request: both are found to have lost their client,
    though no connection was closed."""
    trial = subprocess.run([*OWN_NETWORK, sys.executable, "-m", "tests.vanishing"], cwd=ROOT, capture_output=True)
    assert trial.returncode == 0, trial.stderr.decode()
    assert trial.stdout.split() == [b"client_left", b"client_left"]


async def test_connections_are_kept_longer_than_nginx_keeps_them(serve: Serve) -> None:
    """Otherwise nginx would occasionally send a request into a closing connection."""
    service = await serve()
    async with service.client.get("/healthz"):
        pass
    assert service.runner.server is not None
    (connection,) = service.runner.server.connections
    assert connection._keepalive_timeout == KEEPALIVE_S > 60


async def test_the_server_header_has_no_version(serve: Serve) -> None:
    """The Server header is only a name."""
    service = await serve()
    for path in ("/healthz", "/nothing", "/stream?prompt=x"):
        async with service.client.get(path) as response:
            assert response.headers["Server"] == "rill"
            await response.read()
