"""Our end of the engine's socket: frames in, frames out. The engine's own end is engine/door.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from service.engine.protocol import Beat, Decoder, Fatal, Frame, ProtocolError, encode


class Door(asyncio.Protocol):
    """`receive` gets every frame but those on the process itself: a Beat sets `busy_s`, a Fatal ends it.

    `heard_at` is when anything came last; `ended` tells why there will be no more.
    """

    def __init__(self, receive: Callable[[Frame], None], clock: Callable[[], float]) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard_at = clock()
        self.busy_s = 0.0
        self._receive = receive
        self._clock = clock
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        if self.ended.done():
            return
        try:
            frames = self._decoder.feed(data)
        except ProtocolError as e:
            self.ended.set_result(f"it sent what is no frame: {e}")
            return
        for frame in frames:
            if isinstance(frame, Beat):
                self.busy_s = frame.busy_s
            elif isinstance(frame, Fatal):
                self.ended.set_result(frame.message)
                return
            else:
                self._receive(frame)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result("it died")

    def send(self, frame: Frame) -> None:
        if self._transport is not None:
            self._transport.write(encode(frame))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
