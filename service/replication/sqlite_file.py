"""One SQLite file: opened, locked, checked, and used by one thread. Its tables are sqlite_store.py's.

One process holds the file, by SQLite's exclusive lock, until it ends in any way. A transaction goes into the
write-ahead log, which the kernel has once it is committed (synchronous=NORMAL): killing the service loses nothing. A
power cut may lose the last ones, but leaves no partial one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service.replication.store import StoreDown

TIMEOUT_S = 1.0  # for one answer: a disk may hang
LOCK_S = 1.0  # how long to wait for the file: the kernel may still be ending a killed service

APPLICATION = 0x52494C4C  # "RILL", in the file's header

T = TypeVar("T")


class SqliteFile:
    """`await do(work)`. `schema` makes the tables of this `version`; a file of another one is refused. Opened at once,
    and reopened by the next work after an error. `timeout_s`: for one answer. Raises StoreDown."""

    def __init__(self, path: str, *, schema: str, version: int, timeout_s: float = TIMEOUT_S) -> None:
        self._path = os.path.abspath(path)  # sqlite3 takes `:memory:` for no file at all
        self._schema = schema
        self._version = version
        self._timeout_s = timeout_s
        self._db: sqlite3.Connection | None = None
        self._identity = (0, 0)  # of the file that is open: device, inode
        self._work(lambda db: None)
        self._thread = ThreadPoolExecutor(1, "store")

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Its result. An error rolls back its changes."""
        try:
            async with asyncio.timeout(self._timeout_s):  # work that is still queued by then is dropped
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work)
        except TimeoutError:
            raise StoreDown(f"{self._path}: it does not respond") from None

    async def close(self) -> None:
        """Checkpoint the log into the file, and close it."""
        with suppress(RuntimeError):  # it was closed
            await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown(wait=False)

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._db is None:
                self._db = self._open()
                self._identity = _identity(self._path)
            elif _identity(self._path) != self._identity:  # what is written now would be lost
                raise StoreDown("it was moved or deleted")
            return work(self._db)
        except (sqlite3.Error, OSError, StoreDown) as e:
            self._let_go()
            raise StoreDown(f"{self._path}: {_words(e)}") from None

    def _let_go(self) -> None:
        """An unfinished transaction is rolled back."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _open(self) -> sqlite3.Connection:
        """The file, made if it is not there, with mode 600 and locked exclusively."""
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL, 0o600))
        if not os.path.isfile(self._path):
            raise StoreDown("it is not a file")
        db = sqlite3.connect(self._path, timeout=LOCK_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            is_new = db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
            if not is_new:
                self._check(db)
            os.chmod(self._path, 0o600)  # not before it is known to be ours, or new
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there is a table: deleted pages can be given back
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            if is_new:
                ids = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {self._version};"
                db.executescript(f"BEGIN EXCLUSIVE; {self._schema} {ids} COMMIT;")
            return db
        except BaseException:
            db.close()
            raise

    def _check(self, db: sqlite3.Connection) -> None:
        """Raises StoreDown for a file that is not ours, of another version, or broken."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION:
            raise StoreDown("it is another program's database")
        if version != self._version:
            raise StoreDown(f"it has version {version}, and version {self._version} is needed; move it away")
        (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreDown("it is corrupt; move it away")

    def __repr__(self) -> str:
        return f"<SqliteFile {self._path} {'closed' if self._db is None else 'open'}>"


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _words(error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
        return "another process has it open"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
