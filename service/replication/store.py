"""The interface of a store for the streams that replicas share. No I/O in here.

A stream's log in the store is a row of entries, each at a LogPosition: the epoch of its owner (each owner has a higher
one than the last) and its number in the log. Event n is number n + 1; 0 is an owner's marker. The events that end a
stream are one entry, with its summary: they are all there or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from service.replication.records import (
    Entry,
    LogPosition,
)

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


class Store(Protocol):
    """Storage outside this process. Every method may raise StoreDown."""

    async def write(self, writes: list[Write]) -> list[LogPosition]:
        """Write all at once. Returns where each log ends now: beyond a Write's own epoch, another replica owns it."""

    async def ends(self, ids: list[str]) -> list[LogPosition]: ...
    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None: ...
    async def record(self, id: str) -> bytes | None: ...
    async def is_gone(self, id: str) -> bool: ...
    async def drop(self, id: str, epoch: int, key: str | None) -> None: ...
    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]: ...
    async def expired(self) -> list[tuple[str, int, float]]: ...
    async def claim(self, id: str, epoch: int) -> bool: ...
    async def hand_over(self, owned: list[tuple[str, int]]) -> None: ...
    async def release(self, id: str, epoch: int) -> None: ...
    async def follow(self, after: Mapping[str, LogPosition]) -> tuple[dict[str, list[Entry]], list[str]]: ...
    async def cancel(self, id: str) -> None: ...
    async def reserve(self, key: str, value: bytes) -> bytes | None: ...
    async def overwrite(self, key: str, value: bytes) -> None: ...
    async def free(self, key: str, value: bytes) -> None: ...
    async def note_readers(self, ids: list[str]) -> None: ...
    async def read_elsewhere(self, ids: list[str]) -> list[str]: ...
    async def close(self) -> None: ...
