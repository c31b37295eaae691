"""Parses bytes as an EventSource does (WHATWG HTML 9.2.6), as far as we use it; strict where we guarantee more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class Event:
    id: str
    name: str
    data: str
    retry: int | None = None

    def json(self) -> Any:
        return orjson.loads(self.data)


def parse(raw: bytes) -> list[Event]:
    """The dispatched events; an incomplete block is dropped, as by an EventSource. A CR anywhere is an error."""
    assert b"\r" not in raw
    events: list[Event] = []
    last_id, name, retry = "", "message", None
    data: list[str] = []
    lines = raw.decode().split("\n")
    for line in lines[:-1]:
        field, _, value = line.partition(": ")
        if line == "":
            if data:
                events.append(Event(last_id, name, "\n".join(data), retry))
            name, data, retry = "message", [], None
        elif line.startswith(":"):
            continue
        elif field == "id":
            last_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "retry":
            retry = int(value)
        else:
            raise AssertionError(f"not a field: {line!r}")
    return events


def numbers(events: list[Event], stream: str) -> list[int]:
    """The numbers in the events' ids, `<stream>.<number>.<checksum>`, all of this stream."""
    parts = [event.id.split(".") for event in events]
    assert all(len(part) == 3 and part[0] == stream and len(part[2]) == 8 for part in parts), parts
    return [int(number) for _, number, _ in parts]


def text(events: list[Event]) -> str:
    """The joined text of a native stream."""
    return "".join(event.json()["text"] for event in events if event.name == "message")
