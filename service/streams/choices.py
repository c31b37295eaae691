"""Several answers to one request: each is a stream of its own, and these are read as one. Their ids. Pure.

The combined id names all of them, so that any replica finds each one's record by it, and nothing else has to be stored.
A combined event's id has each stream's position: after it each continues where the reader left it, whatever order their
events came in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

MAX_N = 16  # answers to each prompt
MAX_CHOICES = 64  # answers to one request: the id of each event has as many positions

_ID = re.compile(r"([0-9a-f]{32})-([1-9][0-9]?)x([1-9][0-9]?)")
_PLACE = re.compile(r"-|(0|[1-9][0-9]{0,9}):([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Combined:
    """Which streams are read as one: n for each of n_prompts prompts, prompt by prompt."""

    first: str  # the id of the first one
    n_prompts: int
    n: int

    @classmethod
    def parse(cls, id: str) -> Combined | None:
        """None: it is no combined id."""
        match = _ID.fullmatch(id)
        return None if match is None else cls(match[1], int(match[2]), int(match[3]))._if_valid()

    @property
    def id(self) -> str:
        return f"{self.first}-{self.n_prompts}x{self.n}"

    @property
    def ids(self) -> list[str]:
        """Of the streams, in the order of the choices' indices. Only the first one's id tells the others'."""
        n = self.n_prompts * self.n
        return [self.first, *(hashlib.sha256(f"{self.first}.{k}".encode()).hexdigest()[:32] for k in range(1, n))]

    def _if_valid(self) -> Combined | None:
        return self if self.n <= MAX_N and self.n_prompts * self.n <= MAX_CHOICES else None


@dataclass(frozen=True, slots=True)
class Place:
    """The last event that a reader has of each stream, `<number>:<checksum>` or "" for none; and how many it has of
    those that follow all streams' ends."""

    combined: Combined
    last: tuple[str, ...]
    n_tail: int = 0

    @classmethod
    def start(cls, combined: Combined) -> Place:
        """Before the first event."""
        return cls(combined, ("",) * len(combined.ids))

    @classmethod
    def parse(cls, event_id: str) -> Place | None:
        """None: it is no combined event's id."""
        id, _, rest = event_id.partition(".")
        places, _, tail = rest.partition(";")
        last = places.split(",")
        combined = Combined.parse(id)
        if combined is None or len(last) != len(combined.ids) or not all(map(_PLACE.fullmatch, last)):
            return None
        if tail not in ("", "1", "2"):
            return None
        return cls(combined, tuple(place.strip("-") for place in last), int(tail or 0))

    def __str__(self) -> str:
        tail = f";{self.n_tail}" if self.n_tail else ""
        return f"{self.combined.id}.{','.join(place or '-' for place in self.last)}{tail}"

    def event_ids(self) -> list[str]:
        """The last event's id in each stream; "" where there is none."""
        places = zip(self.combined.ids, self.last, strict=True)
        return [f"{id}.{place.replace(':', '.')}" if place else "" for id, place in places]

    def after(self, k: int, event_id: str) -> Place:
        """The reader has this event of stream k, too."""
        _, n, checksum = event_id.split(".")
        return replace(self, last=(*self.last[:k], f"{n}:{checksum}", *self.last[k + 1 :]))

    def after_tail(self, n: int) -> Place:
        """It has the first n of the events behind the streams' ends."""
        return replace(self, n_tail=n)
