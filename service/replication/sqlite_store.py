"""The store in one file on this machine's disk: a lone service's streams outlive it.

No other process has the file (sqlite_file.py), so no lease is needed: a live stream that this process did not begin or
claim has no owner. A write is one transaction.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from service.replication.records import Entry, LogPosition
from service.replication.sqlite_file import TIMEOUT_S, SqliteFile
from service.replication.sqlite_statements import (
    SCHEMA,
    UNBEGUN_S,
    VERSION,
    claim_stream,
    delete_streams,
    live_streams,
    load_stream,
    log_end,
    purge_expired,
    read_record,
    reserve_key,
    write_all,
)
from service.replication.store import Write

BLOCK_S = 0.5  # how long `follow` waits
PURGE_S = 10.0  # between two purges


class SqliteStore:
    """A replicator.Store. `ttl_s`: how long an ended stream is kept; a live one is as long as it lives. `clock`:
    seconds since the epoch. `timeout_s`: for one answer. Raises StoreDown when the file can't be used."""

    is_alone = True
    lease_s = 0.3  # there is no other replica to wait for: what was left is adopted at once

    def __init__(
        self, path: str, *, ttl_s: float, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = SqliteFile(path, schema=SCHEMA, version=VERSION, timeout_s=timeout_s)
        self.reservations = SqliteReservations(self._file, lambda: clock() + ttl_s + UNBEGUN_S)
        self.readers = NoReaders()
        self._ttl_s = ttl_s
        self._clock = clock  # only for times to live, since it may jump
        self._owned: set[str] = set()  # by this run
        self._cancels: set[str] = set()
        self._cancelled = asyncio.Event()
        self._purge_at = 0.0  # the loop's time

    async def write(self, writes: list[Write]) -> list[LogPosition]:
        expires_at = self._clock() + self._ttl_s
        places = await self._file.do(lambda db: write_all(db, writes, expires_at))
        self._owned.update(write.id for write in writes if write.record is not None)
        self._disown([write.id for write in writes if write.is_last])
        return places

    async def ends(self, ids: list[str]) -> list[LogPosition]:
        """Where each log ends; NOWHERE if there is none."""
        return await self._file.do(lambda db: [log_end(db, id) for id in ids])

    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None:
        """A stream's record and all entries, in their order."""
        return await self._file.do(lambda db: load_stream(db, id))

    async def record(self, id: str) -> bytes | None:
        return await self._file.do(lambda db: read_record(db, id))

    async def is_gone(self, id: str) -> bool:
        """Whether there was a stream of this id."""
        gone = "SELECT 1 FROM gone WHERE id = ?"
        return await self._file.do(lambda db: db.execute(gone, (id,)).fetchone() is not None)

    async def drop(self, id: str, epoch: int, key: str | None) -> None:
        """Delete a stream that no client knows of."""
        await self._file.do(lambda db: delete_streams(db, [id], key))
        self._disown([id])

    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]:
        """Which of these are still ours: not those that went with a deleted file."""
        live = await self._file.do(live_streams)
        return [id in self._owned and id in live for id, _ in owned]

    async def expired(self) -> list[tuple[str, int, float]]:
        """(id, epoch, seconds since) of streams that an earlier run left. Infinite: no other replica will adopt them.
        Expired streams are deleted on this occasion."""
        if (now := asyncio.get_running_loop().time()) >= self._purge_at:
            wall = self._clock()
            is_done = await self._file.do(lambda db: purge_expired(db, wall, wall + self._ttl_s))
            self._purge_at = now + PURGE_S if is_done else now
        live = await self._file.do(live_streams)
        return [(id, epoch, math.inf) for id, epoch in live.items() if id not in self._owned]

    async def claim(self, id: str, epoch: int) -> bool:
        """Become owner in `epoch`, the next one; False: this epoch is already claimed."""
        is_ours = await self._file.do(lambda db: claim_stream(db, id, epoch))
        if is_ours:
            self._owned.add(id)
        return is_ours

    async def hand_over(self, owned: list[tuple[str, int]]) -> None:
        """To the next run."""
        self._disown([id for id, _ in owned])

    async def release(self, id: str, epoch: int) -> None:
        """Mark ended what can't be continued."""
        change = "UPDATE streams SET expires_at = ? WHERE id = ? AND expires_at IS NULL"
        expires_at = self._clock() + self._ttl_s
        await self._file.do(lambda db: db.execute(change, (expires_at, id)))
        self._disown([id])

    async def follow(self, after: Mapping[str, LogPosition]) -> tuple[dict[str, list[Entry]], list[str]]:
        """No entries, as nothing else writes: only the streams to be cancelled, repeated until they have ended,
        since one of an earlier run must be claimed first; blocks BLOCK_S for any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BLOCK_S):
                await self._cancelled.wait()
        self._cancelled.clear()
        return {}, list(self._cancels)

    async def cancel(self, id: str) -> None:
        """Cancel it, as soon as it is ours."""
        self._cancels.add(id)
        self._cancelled.set()

    async def close(self) -> None:
        await self._file.close()

    def _disown(self, ids: list[str]) -> None:
        self._owned.difference_update(ids)
        self._cancels.difference_update(ids)

    def __repr__(self) -> str:
        return f"<SqliteStore {len(self._owned)} owned, {self._file!r}>"


class SqliteReservations:
    """A reservations.ReservationStore. `expiry()`: until when a key is kept that is reserved now."""

    def __init__(self, file: SqliteFile, expiry: Callable[[], float]) -> None:
        self._file, self._expiry = file, expiry

    async def reserve(self, key: str, value: bytes) -> bytes | None:
        """Set this key, or return the value that it has."""
        expires_at = self._expiry()
        return await self._file.do(lambda db: reserve_key(db, key, value, expires_at))

    async def overwrite(self, key: str, value: bytes) -> None:
        values = key, self._expiry(), value
        await self._file.do(lambda db: db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", values))

    async def free(self, key: str, value: bytes) -> None:
        """Delete this key, if its value has this prefix."""
        values = key, len(value), value
        await self._file.do(lambda db: db.execute("DELETE FROM keys WHERE key = ? AND substr(value, 1, ?) = ?", values))


class NoReaders:
    """A leases.ReaderNotes: there is no replica to inform."""

    async def note(self, ids: list[str]) -> None: ...

    async def elsewhere(self, ids: list[str]) -> list[str]:
        return []
