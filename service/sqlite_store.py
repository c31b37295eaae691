"""The store in one file on this machine's disk: a lone service's streams outlive it.

Nobody else has the file (sqlite_file.py), and no lease is needed: what lives in it and was not begun or claimed in this
life has no owner. A write is one transaction.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from service.sqlite_file import TIMEOUT_S, SqliteFile
from service.store import GONE_S, NOWHERE, Entry, Place, StoreDown, Write

BLOCK_S = 0.5  # how long `follow` waits
PURGE_S = 10.0  # between two purges
MAX_PURGED = 200  # streams in one go
PIECE_S = 0.2  # ... and about so long, deleting and giving back each: events wait for the file meanwhile
PAGES = 64  # given back in one step
UNBEGUN_S = 60.0  # a key whose stream is not there yet is kept for so much longer than an ended stream

VERSION = 1  # of these tables
# expires_at: seconds since the epoch; NULL while it lives.
SCHEMA = """
CREATE TABLE streams (id TEXT PRIMARY KEY, expires_at REAL, key TEXT, record BLOB NOT NULL);
CREATE INDEX streams_by_expiry ON streams (expires_at);
CREATE TABLE entries (
    id TEXT, epoch INTEGER, number INTEGER, payload BLOB NOT NULL, PRIMARY KEY (id, epoch, number)
) WITHOUT ROWID;
CREATE TABLE gone (id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, expires_at REAL NOT NULL, value BLOB NOT NULL);
"""


class SqliteStore:
    """A store.Store. `ttl_s`: how long an ended stream is kept; a live one is as long as it lives. `clock`: seconds
    since the epoch. `timeout_s`: for one answer. Raises StoreDown when the file can't be used."""

    def __init__(
        self, path: str, *, ttl_s: float, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = SqliteFile(path, schema=SCHEMA, version=VERSION, timeout_s=timeout_s)
        self._ttl_s = ttl_s
        self._clock = clock  # only for times to live, since it may jump
        self._owned: set[str] = set()  # in this life
        self._cancels: set[str] = set()
        self._cancelled = asyncio.Event()
        self._purge_at = 0.0  # the loop's time

    async def write(self, writes: list[Write]) -> list[Place]:
        expires_at = self._clock() + self._ttl_s
        places = await self._file.do(lambda db: _write(db, writes, expires_at))
        self._owned.update(write.id for write in writes if write.record is not None)
        self._disown([write.id for write in writes if write.is_last])
        return places

    async def ends(self, ids: list[str]) -> list[Place]:
        """Where each log ends; NOWHERE if there is none."""
        return await self._file.do(lambda db: [_end(db, id) for id in ids])

    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None:
        """A stream's record and all entries, in their order."""
        return await self._file.do(lambda db: _load(db, id))

    async def record(self, id: str) -> bytes | None:
        return await self._file.do(lambda db: _record(db, id))

    async def is_gone(self, id: str) -> bool:
        """Whether there was a stream of this id."""
        gone = "SELECT 1 FROM gone WHERE id = ?"
        return await self._file.do(lambda db: db.execute(gone, (id,)).fetchone() is not None)

    async def drop(self, id: str, epoch: int, key: str | None) -> None:
        """Forget a stream that nobody was told of."""
        await self._file.do(lambda db: _delete(db, [id], key))
        self._disown([id])

    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]:
        """Which of these are still ours: not those that went with a deleted file."""
        live = await self._file.do(_live)
        return [id in self._owned and id in live for id, _ in owned]

    async def expired(self) -> list[tuple[str, int, float]]:
        """(id, epoch, seconds since) of what an earlier life left. Endless: no other replica will go on with it. What
        has outlived its time is deleted on this occasion."""
        if (now := asyncio.get_running_loop().time()) >= self._purge_at:
            wall = self._clock()
            is_done = await self._file.do(lambda db: _purge(db, wall, wall + self._ttl_s))
            self._purge_at = now + PURGE_S if is_done else now
        live = await self._file.do(_live)
        return [(id, epoch, math.inf) for id, epoch in live.items() if id not in self._owned]

    async def claim(self, id: str, epoch: int) -> bool:
        """Become the owner in `epoch`, after the one before; False: somebody was faster."""
        is_ours = await self._file.do(lambda db: _claim(db, id, epoch))
        if is_ours:
            self._owned.add(id)
        return is_ours

    async def hand_over(self, owned: list[tuple[str, int]]) -> None:
        """To the next life."""
        self._disown([id for id, _ in owned])

    async def release(self, id: str, epoch: int) -> None:
        """Take for ended what nobody can go on with."""
        change = "UPDATE streams SET expires_at = ? WHERE id = ? AND expires_at IS NULL"
        expires_at = self._clock() + self._ttl_s
        await self._file.do(lambda db: db.execute(change, (expires_at, id)))
        self._disown([id])

    async def follow(self, after: Mapping[str, Place]) -> tuple[dict[str, list[Entry]], list[str]]:
        """Nobody else writes: only which streams are to be cancelled, said again until they have ended, since one of an
        earlier life has to be claimed first; waits BLOCK_S for something."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BLOCK_S):
                await self._cancelled.wait()
        self._cancelled.clear()
        return {}, list(self._cancels)

    async def cancel(self, id: str) -> None:
        """Have it ended, as soon as it is ours."""
        self._cancels.add(id)
        self._cancelled.set()

    async def reserve(self, key: str, value: bytes) -> bytes | None:
        """Take this key, unless it is taken: then by what."""
        expires_at = self._clock() + self._ttl_s + UNBEGUN_S
        return await self._file.do(lambda db: _reserve(db, key, value, expires_at))

    async def overwrite(self, key: str, value: bytes) -> None:
        values = key, self._clock() + self._ttl_s + UNBEGUN_S, value
        await self._file.do(lambda db: db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", values))

    async def free(self, key: str, value: bytes) -> None:
        """Give this key back, if what took it begins so."""
        values = key, len(value), value
        await self._file.do(lambda db: db.execute("DELETE FROM keys WHERE key = ? AND substr(value, 1, ?) = ?", values))

    async def note_readers(self, ids: list[str]) -> None:
        """Who is here knows it."""

    async def read_elsewhere(self, ids: list[str]) -> list[str]:
        return []

    async def close(self) -> None:
        await self._file.close()

    def _disown(self, ids: list[str]) -> None:
        self._owned.difference_update(ids)
        self._cancels.difference_update(ids)

    def __repr__(self) -> str:
        return f"<SqliteStore {len(self._owned)} owned, {self._file!r}>"


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """After an error the connection is closed, and so it never was."""
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")


def _write(db: sqlite3.Connection, writes: list[Write], expires_at: float) -> list[Place]:
    with _transaction(db):
        return [_append(db, write, expires_at) for write in writes]


def _append(db: sqlite3.Connection, write: Write, expires_at: float) -> Place:
    """What the log lacks of this write, unless it belongs to a later owner. Where the log ends then."""
    end = _end(db, write.id)
    if end.epoch > write.epoch:
        return end
    if write.record is not None:
        db.execute("INSERT OR REPLACE INTO streams VALUES (?, NULL, ?, ?)", (write.id, write.key, write.record))
        _claim(db, write.id, write.epoch)
    elif end == NOWHERE:
        raise StoreDown("a stream's beginning is not there any more")
    new = [(Place(write.epoch, number), payload) for number, payload in enumerate(write.payloads, write.first)]
    rows = [(write.id, *place, payload) for place, payload in new if place > end]
    db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
    if write.is_last:
        db.execute("UPDATE streams SET expires_at = ? WHERE id = ?", (expires_at, write.id))
    return max(end, Place(write.epoch, write.first + len(write.payloads) - 1))


def _end(db: sqlite3.Connection, id: str) -> Place:
    last = "SELECT epoch, number FROM entries WHERE id = ? ORDER BY epoch DESC, number DESC LIMIT 1"
    found = db.execute(last, (id,)).fetchone()
    return Place(*found) if found else NOWHERE


def _claim(db: sqlite3.Connection, id: str, epoch: int) -> bool:
    """Set the marker of this epoch, if it is above the log's end."""
    is_above = _end(db, id) < Place(epoch, 0)
    if is_above:
        db.execute("INSERT INTO entries VALUES (?, ?, 0, x'')", (id, epoch))
    return is_above


def _record(db: sqlite3.Connection, id: str) -> bytes | None:
    found = db.execute("SELECT record FROM streams WHERE id = ?", (id,)).fetchone()
    return None if found is None else bytes(found[0])


def _load(db: sqlite3.Connection, id: str) -> tuple[bytes, list[Entry]] | None:
    record = _record(db, id)
    rows = db.execute("SELECT epoch, number, payload FROM entries WHERE id = ? ORDER BY epoch, number", (id,))
    entries = [(Place(epoch, number), payload) for epoch, number, payload in rows]
    return None if record is None else (record, entries)


def _live(db: sqlite3.Connection) -> dict[str, int]:
    """The epochs of the streams that have not ended, by id."""
    ids = [id for (id,) in db.execute("SELECT id FROM streams WHERE expires_at IS NULL")]
    return {id: _end(db, id).epoch for id in ids}


def _reserve(db: sqlite3.Connection, key: str, value: bytes, expires_at: float) -> bytes | None:
    taken = db.execute("INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, expires_at, value))
    if taken.rowcount:
        return None
    (found,) = db.execute("SELECT value FROM keys WHERE key = ?", (key,)).fetchone()
    return bytes(found)


def _delete(db: sqlite3.Connection, ids: list[str], key: str | None = None) -> None:
    with _transaction(db):
        for id in ids:
            db.execute("DELETE FROM entries WHERE id = ?", (id,))
            db.execute("DELETE FROM streams WHERE id = ?", (id,))
        db.execute("DELETE FROM keys WHERE key = ?", (key,))


def _purge(db: sqlite3.Connection, now: float, latest: float) -> bool:
    """Delete what has outlived its time, and give the room back. False: there is more. Nothing lasts beyond `latest`:
    after the clock was set back, or ttl_s made less, it would be kept for too long."""
    db.execute("UPDATE streams SET expires_at = ? WHERE expires_at > ?", (latest, latest))
    db.execute("UPDATE keys SET expires_at = ? WHERE expires_at > ?", (latest + UNBEGUN_S, latest + UNBEGUN_S))
    due = "SELECT id FROM streams WHERE expires_at <= ? LIMIT ?"
    ids = [id for (id,) in db.execute(due, (now, MAX_PURGED))]
    n_purged, end = 0, time.monotonic() + PIECE_S
    while n_purged < len(ids) and (n_purged == 0 or time.monotonic() < end):
        id = ids[n_purged]
        _delete(db, [id])
        db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?)", (id, now + GONE_S))
        n_purged += 1
    db.execute("DELETE FROM gone WHERE expires_at <= ? OR expires_at > ?", (now, now + GONE_S))
    # A key is worth something as long as its stream.
    of_streams = "SELECT key FROM streams WHERE key IS NOT NULL"
    keys = db.execute(f"DELETE FROM keys WHERE expires_at <= ? AND key NOT IN ({of_streams})", (now,))
    has_more = _n_free(db) > 0  # of what was deleted now, or the last time
    is_done = n_purged == len(ids) < MAX_PURGED and _give_back(db)
    if is_done and (has_more or ids or keys.rowcount):
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # it holds the deleted still
    return is_done


def _n_free(db: sqlite3.Connection) -> int:
    (n,) = db.execute("PRAGMA freelist_count").fetchone()
    return int(n)


def _give_back(db: sqlite3.Connection) -> bool:
    """Return free pages to the system, for PIECE_S. False: there are more."""
    end = time.monotonic() + PIECE_S
    while (n_free := _n_free(db)) and time.monotonic() < end:
        # As a script, since `execute` takes one step of it only: one page.
        db.executescript(f"PRAGMA incremental_vacuum({PAGES});")
    return n_free == 0
