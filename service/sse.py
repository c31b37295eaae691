"""Events to bytes, and nothing else. LF only; one `id` and one line of JSON `data` an event (WHATWG HTML 9.2).

`block` frames what a dialect says. Native is the dialect of /stream; those of the OpenAI routes are in openai.py.
"""

from __future__ import annotations

from typing import Any

import orjson

from service.errors import RillError
from service.events import Status, Summary

# ONE line feed: with a blank line, openai-python's decoder takes a comment for an event once an id was sent.
HEARTBEAT = b": hb\n"

LOST_ID = "lost"  # the id of the one event that a lost stream's reader gets; reconnecting with it is answered 204


MAX_HEAD_BYTES = 128  # of an event: `retry` and `id` are its first lines

# Some clients (httpx's iter_lines) split lines where str.splitlines does; JSON writes the others as escapes by itself.
SEPARATORS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


def dumps(value: object) -> bytes:
    """JSON that nobody takes for more than one line."""
    text = orjson.dumps(value)
    for separator, escaped in SEPARATORS.items():
        if separator in text:
            text = text.replace(separator, escaped)
    return text


def block(stream: bytes, n: int, checksum: int, body: bytes) -> bytes:
    """One event on the wire. Its id is `<stream>.<n>.<checksum of the text up to here>`; `body` its other lines."""
    return b"id: %b.%d.%08x\n%b\n\n" % (stream, n, checksum, body)


def head(event: bytes) -> bytes:
    """Its line `id: …`: equal ones are the same event behind the same text."""
    return event[event.index(b"id: ") : MAX_HEAD_BYTES].split(b"\n", 1)[0]


def bare(event: bytes) -> bytes:
    """Without `retry` and `id`, for clients of OpenAI's that know `data` alone."""
    return event[event.index(b"data: ") :]


def checksum(event: bytes) -> int:
    """Of the text up to and with this event."""
    return int(head(event).rpartition(b".")[2], 16)


def retry(ms: int) -> bytes:
    """The field that sets an EventSource's pause before it reconnects; only ever at the head of a block with data."""
    return b"retry: %d\n" % ms


def lost(error: RillError) -> bytes:
    """All that the reader of a lost stream is sent."""
    return gap(_event(b"failure", error.body()))


def gap(failure: bytes) -> bytes:
    """A failure, as its dialect says it, that is no part of the stream's log."""
    return b"id: %b\n%b\n\n" % (LOST_ID.encode(), failure)


class Native:
    """The events of design.md: status, (default) text, done, failure."""

    def opening(self, status: Status) -> bytes:
        return self.status(status)

    def status(self, status: Status) -> bytes:
        return _event(b"status", status.as_dict())

    def delta(self, text: str) -> bytes:
        return b'data: {"text":%b}' % dumps(text)

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
