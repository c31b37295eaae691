"""log.py: what readers may have of a log, and when, with a store and without one."""

from __future__ import annotations

import zlib

from service.dialects import sse
from service.dialects.native import Native
from service.streams.log import EventLog

ID = "0123456789abcdef" * 2


class Reader:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.n = 0

    def wake(self) -> None:
        self.n += 1


def log() -> tuple[EventLog, Reader]:
    made, reader = EventLog(ID), Reader()
    made.readers.append(reader)
    return made, reader


def test_without_a_store_each_event_is_visible_at_once() -> None:
    """And its readers are woken for it; an empty body is no event."""
    one, reader = log()
    one.say(b"data: {}")
    one.say(b"")
    assert (len(one), one.n_visible, reader.n) == (1, 1, 1)
    assert one.has(0, f"{ID}.0.00000000") and not one.has(0, f"{ID}.1.00000000") and not one.has(1, "")


def test_an_id_tells_of_the_text_before_it() -> None:
    """By a checksum of all text up to and with its event."""
    one, _ = log()
    for text in ("Once", " upon"):
        one.say_text(Native(), text, 1)
    assert [sse.checksum(event) for event in one] == [zlib.crc32(b"Once"), zlib.crc32(b"Once upon")]
    assert one.weights == [1, 1]


def test_with_a_store_readers_wait_for_it() -> None:
    """Each event is told of before readers may have it; they get what is acknowledged."""
    one, reader = log()
    grown: list[int] = []
    one.write_to(lambda: grown.append(len(one)))
    one.is_durable = True
    for _ in range(3):
        one.say(b"data: {}")
    assert (grown, one.n_visible, reader.n) == ([1, 2, 3], 0, 0)
    one.acknowledge(2)
    assert (one.n_visible, reader.n) == (2, 1)
    one.close()
    assert grown == [1, 2, 3, 3]


def test_a_slow_store_is_not_waited_for() -> None:
    """Readers get all there is, and each event at once, until the store has caught up."""
    one, reader = log()
    one.is_durable = True
    one.say(b"data: {}")
    one.go_ahead()
    one.say(b"data: {}")
    assert (one.n_visible, one.is_durable) == (2, False)
    one.acknowledge(2)
    one.say(b"data: {}")
    assert (one.n_visible, one.is_durable) == (2, True)
    assert reader.n >= 2


def test_what_no_reader_had_is_taken_back() -> None:
    """With its tokens, and the next event's checksum continues from what is left."""
    one, _ = log()
    one.say_text(Native(), "a", 2)
    one.is_durable = True
    one.say_text(Native(), "b", 3)
    n_bytes = one.n_bytes - len(one[1])
    assert one.take_back() == 2
    one.rewind()
    assert (len(one), one.weights, one.n_bytes) == (1, [2], n_bytes)
    one.say_text(Native(), "c", 1)
    assert sse.checksum(one[-1]) == zlib.crc32(b"ac")
    assert repr(one) == "<EventLog 1/2 events visible, 1 readers>"
