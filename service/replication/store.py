"""What is written to a store for the streams that replicas share, and how it fails. No I/O in here.

What is asked of a store stands with each user: writer.py, follower.py, leases.py, reservations.py, handover.py;
replicator.py has it all.

A stream's log in the store is a row of entries, each at a LogPosition: the epoch of its owner (each owner has a higher
one than the last) and its number in the log. Event n is number n + 1; 0 is an owner's marker. The events that end a
stream are one entry, with its summary: they are all there or none.
"""

from __future__ import annotations

from dataclasses import dataclass

GONE_S = 3600.0  # how long a store knows that there was a stream, after it has expired


class StoreDown(Exception):
    """The store can't be reached, is too slow, or is full: whether it has the last writes is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One stream's part of a write to the store: entries from `first` on; `record` once, when it begins."""

    id: str
    epoch: int
    first: int
    payloads: list[bytes]
    record: bytes | None = None
    is_last: bool = False  # it has ended with these
    key: str | None = None  # its Idempotency-Key, kept as long as the stream
