"""Streams as requests find, reserve and end them, at whichever replica they run.

`Directory` is what the API needs besides the streams themselves; `Local` is the one without other replicas.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from service.streams.registry import Streams
from service.streams.stream import Stream
from service.streams.table import Role


class Directory(Protocol):
    """Streams of this replica and, where they share a store, of all others."""

    streams: Streams  # of this replica

    async def locate(self, id: str, /) -> Stream | None:
        """The stream of this id. Raises NotReady when that is unknown."""

    async def is_gone(self, id: str, /) -> bool:
        """Whether there was a stream of this id, not too long ago."""

    async def reserve(self, tenant: str, key: str, asked: object, /) -> tuple[Stream | None, str]:
        """The stream that this key started; None: start one, with this id. Raises KeyReused."""

    def free(self, tenant: str, key: str, id: str, /) -> None:
        """Nothing runs with this id: the key may start another stream, here or elsewhere."""

    def opened(self, stream: Stream, key: tuple[str, str] | None, /) -> None:
        """A new stream of this replica. key: its tenant and Idempotency-Key."""

    async def end(self, stream: Stream, /) -> None:
        """Cancel it. Raises NotReady if its owner is unreachable."""


class Local:
    """The directory of this replica's streams alone."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    async def locate(self, id: str) -> Stream | None:
        return self.streams.find(id)

    async def is_gone(self, id: str) -> bool:
        return self.streams.table.role(id) is Role.GONE

    async def reserve(self, tenant: str, key: str, asked: object) -> tuple[Stream | None, str]:
        return self.streams.by_key(tenant, key, asked), secrets.token_hex(16)

    def free(self, tenant: str, key: str, id: str) -> None:
        """Nothing to do: `reserve` reserved nothing."""

    def opened(self, stream: Stream, key: tuple[str, str] | None) -> None:
        """No replica to inform."""

    async def end(self, stream: Stream) -> None:
        self.streams.cancel(stream)
