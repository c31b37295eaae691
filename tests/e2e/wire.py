"""A proxy between browser and service: it forwards bytes unchanged until `cut` closes every socket.

When closed, it refuses new connections until it is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType


class Wire:
    """Listens on a free port of this machine and forwards every connection to `port`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own_port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Wire:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Listens on a free port, later on the same one."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._own_port)
        self._own_port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._own_port}/"

    async def close(self) -> None:
        """Cuts all connections and refuses new ones, as if the service were not there."""
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cuts every connection now, whatever it carries; new ones are accepted."""
        for writer in self._writers:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service_reader, service_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, service_writer}
        try:
            await asyncio.gather(_carry(reader, service_writer), _carry(service_reader, writer))
        finally:
            self._writers -= {writer, service_writer}


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
