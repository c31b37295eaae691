"""The tables of the SQLite store and what is asked of them; each function runs on the file's thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.replication.records import NOWHERE, Entry, LogPosition
from service.replication.store import GONE_S, StoreDown, Write

MAX_PURGED = 200  # streams in one go
PIECE_S = 0.2  # ... for deleting, and as long for vacuuming: events wait for the file meanwhile
PAGES = 64  # vacuumed in one step
UNBEGUN_S = 60.0  # extra time that a key without a stream yet is kept, beyond an ended stream's
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


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """After an error the connection is closed, which rolls it back."""
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")


def write_all(db: sqlite3.Connection, writes: list[Write], expires_at: float) -> list[LogPosition]:
    with transaction(db):
        return [append(db, write, expires_at) for write in writes]


def append(db: sqlite3.Connection, write: Write, expires_at: float) -> LogPosition:
    """Append what the log lacks of this write, unless a later owner has it. Returns the log's end."""
    end = log_end(db, write.id)
    if end.epoch > write.epoch:
        return end
    if write.record is not None:
        db.execute("INSERT OR REPLACE INTO streams VALUES (?, NULL, ?, ?)", (write.id, write.key, write.record))
        claim_stream(db, write.id, write.epoch)
    elif end == NOWHERE:
        raise StoreDown("the first entries of a stream no longer exist")
    new = [(LogPosition(write.epoch, number), payload) for number, payload in enumerate(write.payloads, write.first)]
    rows = [(write.id, *place, payload) for place, payload in new if place > end]
    db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
    if write.is_last:
        db.execute("UPDATE streams SET expires_at = ? WHERE id = ?", (expires_at, write.id))
    return max(end, LogPosition(write.epoch, write.first + len(write.payloads) - 1))


def log_end(db: sqlite3.Connection, id: str) -> LogPosition:
    last = "SELECT epoch, number FROM entries WHERE id = ? ORDER BY epoch DESC, number DESC LIMIT 1"
    found = db.execute(last, (id,)).fetchone()
    return LogPosition(*found) if found else NOWHERE


def claim_stream(db: sqlite3.Connection, id: str, epoch: int) -> bool:
    """Set the marker of this epoch, if it is above the log's end."""
    is_above = log_end(db, id) < LogPosition(epoch, 0)
    if is_above:
        db.execute("INSERT INTO entries VALUES (?, ?, 0, x'')", (id, epoch))
    return is_above


def read_record(db: sqlite3.Connection, id: str) -> bytes | None:
    found = db.execute("SELECT record FROM streams WHERE id = ?", (id,)).fetchone()
    return None if found is None else bytes(found[0])


def load_stream(db: sqlite3.Connection, id: str) -> tuple[bytes, list[Entry]] | None:
    record = read_record(db, id)
    rows = db.execute("SELECT epoch, number, payload FROM entries WHERE id = ? ORDER BY epoch, number", (id,))
    entries = [(LogPosition(epoch, number), payload) for epoch, number, payload in rows]
    return None if record is None else (record, entries)


def live_streams(db: sqlite3.Connection) -> dict[str, int]:
    """The epochs of the streams that have not ended, by id."""
    ids = [id for (id,) in db.execute("SELECT id FROM streams WHERE expires_at IS NULL")]
    return {id: log_end(db, id).epoch for id in ids}


def reserve_key(db: sqlite3.Connection, key: str, value: bytes, expires_at: float) -> bytes | None:
    taken = db.execute("INSERT INTO keys VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (key, expires_at, value))
    if taken.rowcount:
        return None
    (found,) = db.execute("SELECT value FROM keys WHERE key = ?", (key,)).fetchone()
    return bytes(found)


def delete_streams(db: sqlite3.Connection, ids: list[str], key: str | None = None) -> None:
    with transaction(db):
        for id in ids:
            db.execute("DELETE FROM entries WHERE id = ?", (id,))
            db.execute("DELETE FROM streams WHERE id = ?", (id,))
        db.execute("DELETE FROM keys WHERE key = ?", (key,))


def purge_expired(db: sqlite3.Connection, now: float, latest: float) -> bool:
    """Delete what has expired, and return the space. False: there is more. Nothing is kept beyond `latest`: after the
    clock was set back, or ttl_s made less, it would be kept for too long."""
    db.execute("UPDATE streams SET expires_at = ? WHERE expires_at > ?", (latest, latest))
    db.execute("UPDATE keys SET expires_at = ? WHERE expires_at > ?", (latest + UNBEGUN_S, latest + UNBEGUN_S))
    due = "SELECT id FROM streams WHERE expires_at <= ? LIMIT ?"
    ids = [id for (id,) in db.execute(due, (now, MAX_PURGED))]
    n_purged, end = 0, time.monotonic() + PIECE_S
    while n_purged < len(ids) and (n_purged == 0 or time.monotonic() < end):
        id = ids[n_purged]
        delete_streams(db, [id])
        db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?)", (id, now + GONE_S))
        n_purged += 1
    db.execute("DELETE FROM gone WHERE expires_at <= ? OR expires_at > ?", (now, now + GONE_S))
    # A key is of use as long as its stream exists.
    of_streams = "SELECT key FROM streams WHERE key IS NOT NULL"
    keys = db.execute(f"DELETE FROM keys WHERE expires_at <= ? AND key NOT IN ({of_streams})", (now,))
    has_more = _n_free(db) > 0  # of what was deleted now, or the last time
    is_done = n_purged == len(ids) < MAX_PURGED and give_back(db)
    if is_done and (has_more or ids or keys.rowcount):
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # it holds deleted data
    return is_done


def _n_free(db: sqlite3.Connection) -> int:
    (n,) = db.execute("PRAGMA freelist_count").fetchone()
    return int(n)


def give_back(db: sqlite3.Connection) -> bool:
    """Return free pages to the system, for PIECE_S. False: there are more."""
    end = time.monotonic() + PIECE_S
    while (n_free := _n_free(db)) and time.monotonic() < end:
        # As a script, since `execute` takes one step of it only: one page.
        db.executescript(f"PRAGMA incremental_vacuum({PAGES});")
    return n_free == 0
