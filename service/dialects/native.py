"""The events of /stream: status, (default) text, done, failure; docs/api.md has their fields."""

from __future__ import annotations

from typing import Any

from service.dialects.events import Status, Summary
from service.dialects.logprobs import entries
from service.dialects.sse import (
    HEARTBEAT,
    dumps,
    gap,
)
from service.errors import RillError
from service.protocol.said import Said


def lost(error: RillError) -> bytes:
    """The only event sent for a lost stream."""
    return gap(_event(b"failure", error.body()))


class Native:
    """The native dialect: status, (default) text, done, failure."""

    n_kept = 0

    def opening(self, status: Status) -> bytes:
        return self.status(status)

    def status(self, status: Status) -> bytes:
        return _event(b"status", status.as_dict())

    def delta(self, said: str | Said) -> bytes:
        if isinstance(said, str):
            return b'data: {"text":%b}' % dumps(said)
        return b"data: " + dumps({"text": said.text, "logprobs": entries(said.logprobs)})

    def done(self, summary: Summary) -> list[bytes]:
        event = {
            "finish_reason": summary.finish_reason,
            "usage": summary.usage(),
            "timings": summary.timings(),
            "seed": summary.seed,
        }
        return [_event(b"done", event)]

    def failure(self, error: RillError) -> bytes:
        return _event(b"failure", error.body())

    def heartbeat(self) -> bytes:
        return HEARTBEAT


def _event(name: bytes, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b" % (name, dumps(data))
