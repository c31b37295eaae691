"""Each stream's role at this replica. Roles and the moves between them are in TABLE; nothing else keeps streams.

Ended streams can be read for a while and within bounds; the oldest expire first. A stream without a reader here has
until its deadline to get one.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Literal

from service.streams.stream import Stream

# Memory of a stream beyond its events' bytes, as measured with tracemalloc: the object with dialect and summary; an
# event's header and list slots; a token's number and list slot.
STREAM_BYTES, EVENT_BYTES, TOKEN_BYTES = 3000, 60, 36


class Role(StrEnum):
    MADE = "made"  # by the engine of this replica
    FOLLOWED = "followed"  # made by another one, and read here
    ENDED = "ended"  # wherever it was made
    GONE = "gone"  # it was here, not too long ago


Move = Literal["open", "follow", "adopt", "give up", "end", "drop", "expire"]

TABLE: dict[Role | None, dict[Move, Role | None]] = {
    None: {"open": Role.MADE, "follow": Role.FOLLOWED, "adopt": Role.MADE, "end": Role.ENDED, "drop": None},
    Role.MADE: {"give up": Role.FOLLOWED, "end": Role.ENDED, "drop": None},
    Role.FOLLOWED: {"follow": Role.FOLLOWED, "adopt": Role.MADE, "end": Role.ENDED, "drop": None},
    Role.ENDED: {"end": Role.ENDED, "drop": None, "expire": Role.GONE},
    # Another replica may have it longer, and it may be read here again.
    Role.GONE: {"follow": Role.FOLLOWED, "adopt": Role.MADE, "end": Role.ENDED, "drop": Role.GONE},
}


class StreamTable:
    """Streams by id. Times are the caller's, monotonic, in seconds; bounds in seconds, streams and bytes."""

    def __init__(self, *, ttl_s: float, max_ended: int, max_ended_bytes: int) -> None:
        self._ttl_s, self._max_ended, self._max_ended_bytes = ttl_s, max_ended, max_ended_bytes
        self._streams: dict[Role, OrderedDict[str, Stream]] = {
            role: OrderedDict() for role in (Role.MADE, Role.FOLLOWED, Role.ENDED)
        }
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._deadlines: dict[str, float] = {}  # of live streams without a reader: when they are given up
        self._n_ended_bytes = 0

    def __repr__(self) -> str:
        return f"<StreamTable {', '.join(f'{len(streams)} {role}' for role, streams in self._streams.items())}>"

    def role(self, id: str) -> Role | None:
        """None: it was never here, or too long ago."""
        role = next((role for role, streams in self._streams.items() if id in streams), None)
        return Role.GONE if role is None and id in self._gone else role

    def find(self, id: str) -> Stream | None:
        """The stream of this id, whatever its role, until it is gone."""
        return next((streams[id] for streams in self._streams.values() if id in streams), None)

    def in_role(self, role: Role) -> list[Stream]:
        """All that are MADE, FOLLOWED or ENDED, the first one first."""
        return list(self._streams[role].values())

    def count(self, role: Role) -> int:
        return len(self._streams[role])

    def made(self, id: str) -> Stream | None:
        """The stream of this id if the engine here makes it."""
        return self._streams[Role.MADE].get(id)

    def move(self, stream: Stream, move: Move) -> None:
        """The one way in which a role changes. Raises KeyError for a move that is not in TABLE."""
        before = self.role(stream.id)
        after = TABLE[before][move]
        if before in self._streams and after is not before:
            del self._streams[before][stream.id]
            self._n_ended_bytes -= kept_bytes(stream) if before is Role.ENDED else 0
        if after is Role.GONE:
            self._gone[stream.id] = None
        elif after is not None and after is not before:
            self._streams[after][stream.id] = stream
            self._n_ended_bytes += kept_bytes(stream) if after is Role.ENDED else 0
        if after is not before and after is not Role.FOLLOWED:
            self._deadlines.pop(stream.id, None)

    def expire(self, now: float) -> list[str]:
        """Expire what ended ttl_s ago, and the oldest beyond the bounds. Returns their ids."""
        expired, ended = [], self._streams[Role.ENDED]
        while ended and self._is_over(oldest := next(iter(ended.values())), now):
            self.move(oldest, "expire")
            expired.append(oldest.id)
        while len(self._gone) > self._max_ended:
            self._gone.popitem(last=False)
        return expired

    def _is_over(self, oldest: Stream, now: float) -> bool:
        assert oldest.closed_at is not None
        is_full = len(self._streams[Role.ENDED]) > self._max_ended or self._n_ended_bytes > self._max_ended_bytes
        return is_full or now - oldest.closed_at >= self._ttl_s

    # Readers.

    def unattended(self) -> list[str]:
        """Those that are made here and have no reader here."""
        return [id for id in self._deadlines if id in self._streams[Role.MADE]]

    def wait_for_reader(self, id: str, until: float) -> None:
        """A live stream has no reader: it is given up at that time."""
        self._deadlines[id] = until

    def attend(self, id: str) -> None:
        """It has a reader."""
        self._deadlines.pop(id, None)

    def give_up(self, now: float) -> list[Stream]:
        """Those past their deadline for a reader; each is returned once."""
        due = [id for id, until in self._deadlines.items() if now >= until]
        for id in due:
            del self._deadlines[id]
        return [stream for id in due if (stream := self.find(id)) is not None]


def kept_bytes(stream: Stream) -> int:
    """Its approximate memory after its end."""
    n_bytes = stream.log.n_bytes + stream.dialect.n_kept
    return STREAM_BYTES + n_bytes + EVENT_BYTES * len(stream.log) + TOKEN_BYTES * len(stream.tokens)
