"""log.py: which events readers may have, and when, with a store and without one."""

from __future__ import annotations

import zlib

from service.dialects import sse
from service.dialects.native import Native
from service.streams.log import EventLog

ID = "0123456789abcdef" * 2


class Reader:
    """Counts its wake-ups."""

    def __init__(self) -> None:
        self.n = 0

    def wake(self) -> None:
        self.n += 1


def log() -> tuple[EventLog, Reader]:
    made, reader = EventLog(ID), Reader()
    made.readers.append(reader)
    return made, reader


def test_without_a_store_each_event_is_visible_at_once() -> None:
    """Its readers are woken for it; an empty body is not an event."""
    one, reader = log()
    one.say(b"data: {}")
    one.say(b"")
    assert (len(one), one.n_visible, reader.n) == (1, 1, 1)
    assert one.has(0, f"{ID}.0.00000000") and not one.has(0, f"{ID}.1.00000000") and not one.has(1, "")


def test_an_id_has_the_checksum_of_the_text() -> None:
    """It is of all text up to and including its event."""
    one, _ = log()
    for text in ("Once", " upon"):
        one.say_text(Native(), text, 1)
    assert [sse.checksum(event) for event in one] == [zlib.crc32(b"Once"), zlib.crc32(b"Once upon")]
    assert one.weights == [1, 1]


def test_with_a_store_readers_wait_for_it() -> None:
    """The store is notified of each event before readers may have it; they get acknowledged events only."""
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
    """Readers get all events, and each new one at once, until the store has caught up."""
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


def test_events_that_no_reader_had_are_taken_back() -> None:
    """Their tokens are removed too, and the next event's checksum continues from the remaining text."""
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
