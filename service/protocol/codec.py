"""Frames to bytes and back, however the byte stream is cut."""

from __future__ import annotations

import struct
from typing import Any, get_args

import orjson

from service.protocol.frames import GPU, Finish, Frame, Ready, Step, Submit
from service.protocol.sampling import Sampling

# 64 MiB: a prompt is bounded by RILL_MAX_BODY_BYTES long before; a larger length is a broken peer.
MAX_FRAME_BYTES = 64 << 20
_TYPES: dict[str, type[Any]] = {cls.__name__.lower(): cls for cls in get_args(Frame)}


class ProtocolError(Exception):
    """The peer sent bytes that are no frame."""


def encode(frame: Frame) -> bytes:
    """A frame's bytes on the wire, length first."""
    # orjson serializes tuples and nested dataclasses itself; asdict would copy each token id.
    values = {name: getattr(frame, name) for name in type(frame).__slots__}
    body = orjson.dumps({"type": type(frame).__name__.lower(), **values})
    return struct.pack(">I", len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Frame:
    """The frame that a body (without its length) holds. Raises ProtocolError."""
    try:
        values = orjson.loads(body)
        cls = _TYPES[values.pop("type")]
        if cls is Submit:
            values["sampling"] = Sampling.of(values["sampling"])
        elif cls is Ready:
            values["gpus"] = [GPU(**gpu) for gpu in values.get("gpus", [])]
        elif cls is Step:
            values["finished"] = [Finish(**f) for f in values["finished"]]
        frame: Frame = cls(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ProtocolError(f"not a frame: {e}") from e
    return frame


class Decoder:
    """Cuts a byte stream into frames, wherever the reads happened to end."""

    def __init__(self) -> None:
        self._buffer = bytearray()

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
            frames.append(decode(bytes(self._buffer[start + 4 : start + 4 + size])))
            start += 4 + size
        del self._buffer[:start]
        return frames
