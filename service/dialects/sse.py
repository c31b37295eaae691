"""SSE framing of events, nothing else. LF only; one `id` and one line of JSON `data` an event (WHATWG HTML 9.2).

`block` frames a dialect's events: native.py's for /stream, openai.py's for the OpenAI routes.
"""

from __future__ import annotations

import orjson

# ONE line feed: with a blank line, openai-python's decoder takes a comment for an event once an id was sent.
HEARTBEAT = b": hb\n"

LOST_ID = "lost"  # the id of the one event that a lost stream's reader gets; reconnecting with it is answered 204


MAX_HEAD_BYTES = 128  # of an event: `retry` and `id` are its first lines

# Some clients (httpx's iter_lines) split lines where str.splitlines does; JSON escapes the other separators anyway.
SEPARATORS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


def dumps(value: object) -> bytes:
    """JSON that no client splits into several lines."""
    text = orjson.dumps(value)
    for separator, escaped in SEPARATORS.items():
        if separator in text:
            text = text.replace(separator, escaped)
    return text


def block(stream: bytes, n: int, checksum: int, body: bytes) -> bytes:
    """One event on the wire. Its id is `<stream>.<n>.<checksum of the text up to here>`; `body` its other lines."""
    return b"id: %b.%d.%08x\n%b\n\n" % (stream, n, checksum, body)


def head(event: bytes) -> bytes:
    """Its line `id: …`: equal ones are the same event after the same text."""
    return event[event.index(b"id: ") : MAX_HEAD_BYTES].split(b"\n", 1)[0]


def bare(event: bytes) -> bytes:
    """Without `retry` and `id`, for clients of OpenAI's that know `data` alone."""
    return event[event.index(b"data: ") :]


def checksum(event: bytes) -> int:
    """Of the text up to and in this event."""
    return int(head(event).rpartition(b".")[2], 16)


def retry(ms: int) -> bytes:
    """The field that sets an EventSource's pause before it reconnects; only ever at the head of a block with data."""
    return b"retry: %d\n" % ms


def gap(failure: bytes) -> bytes:
    """A failure in its dialect's format that is not in the stream's log."""
    return b"id: %b\n%b\n\n" % (LOST_ID.encode(), failure)
