"""A replicator.Store in a dict, fenced as the real ones are, that waits or fails when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from service.replication.records import NOWHERE, Entry, LogPosition
from service.replication.sqlite_store import NoReaders
from service.replication.store import StoreDown, Write


class NoReservations:
    """Every key is free."""

    async def reserve(self, key: str, value: bytes) -> bytes | None:
        return None

    async def overwrite(self, key: str, value: bytes) -> None: ...
    async def free(self, key: str, value: bytes) -> None: ...


class MemoryStore:
    """`gate`: while cleared, no write is answered. `fails`: every call raises StoreDown. `lose` deletes entries."""

    is_alone, lease_s = False, 1.0
    reservations, readers = NoReservations(), NoReaders()

    def __init__(self) -> None:
        self.logs: dict[str, list[Entry]] = {}
        self.records: dict[str, bytes] = {}
        self.writes: list[list[Write]] = []
        self.dropped: list[str] = []
        self.cancels: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False
        self._news = asyncio.Event()

    def put(self, id: str, place: LogPosition, payload: bytes) -> None:
        """Another writer's entry."""
        self.logs.setdefault(id, []).append((place, payload))
        self._news.set()

    def lose(self, id: str, n: int) -> None:
        """Deletes all but the first n entries, as after a power failure."""
        del self.logs[id][n:]

    async def write(self, writes: list[Write]) -> list[LogPosition]:
        self.writes.append(writes)
        await self.gate.wait()
        self._check()
        for write in writes:
            if write.record is not None:
                self.records[write.id] = write.record
                self._append(write.id, LogPosition(write.epoch, 0), b"")
            for number, payload in enumerate(write.payloads, write.first):
                self._append(write.id, LogPosition(write.epoch, number), payload)
        return await self.ends([write.id for write in writes])

    async def ends(self, ids: list[str]) -> list[LogPosition]:
        self._check()
        return [self.logs[id][-1][0] if self.logs.get(id) else NOWHERE for id in ids]

    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None:
        self._check()
        return (self.records[id], list(self.logs[id])) if id in self.records else None

    async def record(self, id: str) -> bytes | None:
        self._check()
        return self.records.get(id)

    async def is_gone(self, id: str) -> bool:
        return False

    async def drop(self, id: str, epoch: int, key: str | None) -> None:
        self._check()
        self.dropped.append(id)

    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]:
        self._check()
        return [True] * len(owned)

    async def expired(self) -> list[tuple[str, int, float]]:
        return []

    async def claim(self, id: str, epoch: int) -> bool:
        self._append(id, LogPosition(epoch, 0), b"")
        return True

    async def hand_over(self, owned: list[tuple[str, int]]) -> None: ...
    async def release(self, id: str, epoch: int) -> None: ...

    async def follow(self, after: Mapping[str, LogPosition]) -> tuple[dict[str, list[Entry]], list[str]]:
        while True:
            self._check()
            self._news.clear()
            logs = {id: [entry for entry in self.logs.get(id, []) if entry[0] > place] for id, place in after.items()}
            news = {id: entries for id, entries in logs.items() if entries}
            cancels, self.cancels = self.cancels, []
            if news or cancels:
                return news, cancels
            await self._news.wait()

    async def cancel(self, id: str) -> None:
        self.cancels.append(id)
        self._news.set()

    async def close(self) -> None: ...

    def _append(self, id: str, place: LogPosition, payload: bytes) -> None:
        log = self.logs.setdefault(id, [])
        if not log or place > log[-1][0]:
            log.append((place, payload))
            self._news.set()

    def _check(self) -> None:
        if self.fails:
            raise StoreDown("the test says so")
