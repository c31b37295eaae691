"""Several streams' events as one response: each with an id that has all streams' positions, as they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from service.dialects import sse
from service.streams.choices import Place
from service.streams.reader import Connection

EVENT_END = b"\n\n"


class Merge:
    """`of(k)` is the connection for the reader of stream k. `place`: what the client has, all streams together."""

    def __init__(self, wire: Connection, place: Place, *, is_bare: bool) -> None:
        """is_bare: the readers send `data` lines alone, which have no ids to change."""
        self.wire, self.place = wire, place
        self._is_bare = is_bare

    def of(self, k: int) -> _Branch:
        return _Branch(self, k)

    def renamed(self, k: int, chunk: bytes) -> bytes:
        """Whole events of stream k, or a heartbeat, as the client gets them."""
        if self._is_bare or b"id: " not in chunk:
            return chunk
        return b"".join(self._event(k, event) for event in chunk.removesuffix(EVENT_END).split(EVENT_END))

    def tail(self, bodies: list[bytes]) -> bytes:
        """The events behind all streams' ends that the client has not had."""
        sent = b""
        for n, body in enumerate(bodies, 1):
            if n > self.place.n_tail:
                id = b"" if self._is_bare else b"id: %b\n" % str(self.place.after_tail(n)).encode()
                sent += id + body + EVENT_END
        return sent

    def _event(self, k: int, event: bytes) -> bytes:
        line = sse.head(event)
        if line == b"id: %b" % sse.LOST_ID.encode():
            return event + EVENT_END
        self.place = self.place.after(k, line.removeprefix(b"id: ").decode())
        return event.replace(line, b"id: %b" % str(self.place).encode(), 1) + EVENT_END


class _Branch:
    """One stream's connection to the client."""

    def __init__(self, merge: Merge, k: int) -> None:
        self._merge, self._k = merge, k

    def is_free(self) -> bool:
        return self._merge.wire.is_free()

    def write(self, chunk: bytes) -> None:
        self._merge.wire.write(self._merge.renamed(self._k, chunk))

    @property
    def send(self) -> Callable[[bytes], Awaitable[None]]:
        return self._send

    async def _send(self, chunk: bytes) -> None:
        await self._merge.wire.send(self._merge.renamed(self._k, chunk))
