from __future__ import annotations

import socket

from service.listen import KEEPALIVE_S, SEND_BUFFER_BYTES
from tests.conftest import Serve


async def test_the_kernel_holds_little_for_a_reader_that_stalls(serve: Serve) -> None:
    """Each connection's send buffer is bounded (the kernel doubles what it is told), where the default is megabytes."""
    service = await serve()
    async with service.client.get("/stream", params={"prompt": "x"}):
        assert service.runner.server is not None
        (connection,) = service.runner.server.connections
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER_BYTES


async def test_connections_are_kept_longer_than_nginx_keeps_them(serve: Serve) -> None:
    """Else nginx would now and then send a request into a closing connection."""
    service = await serve()
    async with service.client.get("/healthz"):
        pass
    assert service.runner.server is not None
    (connection,) = service.runner.server.connections
    assert connection._keepalive_timeout == KEEPALIVE_S > 60


async def test_no_version_is_told(serve: Serve) -> None:
    """The Server header is a name."""
    service = await serve()
    for path in ("/healthz", "/nothing", "/stream?prompt=x"):
        async with service.client.get(path) as response:
            assert response.headers["Server"] == "rill"
            await response.read()
