"""Our end of the engine's socket: frames in, frames out. The engine's own end is engine/serve.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from service.protocol.codec import Decoder, ProtocolError, encode
from service.protocol.frames import Beat, Fatal, Frame


class EngineConnection(asyncio.Protocol):
    """`receive` gets every frame but those on the process itself: a Beat sets `busy_s`, a Fatal ends it.

    `heard_at` is when data last arrived; `ended` tells why there will be no more.
    """

    def __init__(self, receive: Callable[[Frame], None], clock: Callable[[], float]) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard_at = clock()
        self.busy_s = 0.0
        self.fatal: Fatal | None = None  # its last frame, if it sent one
        self.died = False  # it ended by itself, without a Fatal
        self._receive = receive
        self._clock = clock
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None  # a duplicate, to be read once the transport has closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._socket = socket.fromfd(transport.get_extra_info("socket").fileno(), socket.AF_UNIX, socket.SOCK_STREAM)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        if self.ended.done():
            return
        try:
            frames = self._decoder.feed(data)
        except ProtocolError as e:
            self.ended.set_result(f"it sent an invalid frame: {e}")
            return
        for frame in frames:
            if isinstance(frame, Beat):
                self.busy_s = frame.busy_s
            elif isinstance(frame, Fatal):
                self.fatal = frame
                self.ended.set_result(frame.message)
                return
            else:
                self._receive(frame)

    def connection_lost(self, error: Exception | None) -> None:
        if self._socket is not None:
            with self._socket as last_words:
                self._hear(last_words)
        if not self.ended.done():
            self.died = True
            self.ended.set_result("it died")

    def _hear(self, last_words: socket.socket) -> None:
        """If a write failed first, the frames that came before it are unread: the last ones tell which stream is to
        blame for the death."""
        with suppress(OSError):
            while not self.ended.done() and (data := last_words.recv(1 << 18, socket.MSG_DONTWAIT)):
                self.data_received(data)

    def send(self, frame: Frame) -> None:
        if self._transport is not None:
            self._transport.write(encode(frame))

    def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result("it was closed")
        if self._transport is not None:
            self._transport.abort()
