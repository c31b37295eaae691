"""Frames to bytes and back, however the byte stream is cut. Decoding checks every type and bound."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from service.protocol.frames import Frame

# 64 MiB: a prompt is bounded by RILL_MAX_BODY_BYTES long before; a larger length is a broken peer.
MAX_FRAME_BYTES = 64 << 20
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


class ProtocolError(Exception):
    """The peer sent bytes that are no frame."""


def encode(frame: Frame) -> bytes:
    """A frame's bytes on the wire, length first."""
    body = _encoder.encode(frame)
    return struct.pack(">I", len(body)) + body


def decode(body: bytes) -> Frame:
    """The frame that a body (without its length) holds. Raises ProtocolError."""
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"not a frame: {e}") from e


class Decoder:
    """Cuts a byte stream into frames, wherever the reads happened to end. `decode`: what makes a frame of a body."""

    def __init__(self, decode: Callable[[bytes], Frame] = decode) -> None:
        self._buffer = bytearray()
        self._decode = decode

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`, in order. Raises ProtocolError."""
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        while len(self._buffer) - start >= 4:
            (size,) = struct.unpack_from(">I", self._buffer, start)
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes")
            if len(self._buffer) - start - 4 < size:
                break
            frames.append(self._decode(bytes(self._buffer[start + 4 : start + 4 + size])))
            start += 4 + size
        del self._buffer[:start]
        return frames
