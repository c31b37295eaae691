"""Which store the settings name: Redis, a file, or none. Nothing else imports the stores' own files."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from service.replication.replicator import Store


class AddressError(Exception):
    """An address of Redis that can't be used."""


def open_store(redis_url: str, path: str, *, ttl_s: float, lease_s: float) -> Store | None:
    """path: of SQLite, where there is no Redis. lease_s: for how long a replica owns a stream in Redis.

    Raises AddressError, and StoreDown for a file that can't be used.
    """
    if redis_url:
        from service.replication.redis_store import RedisStore

        try:
            if (at := urlsplit(redis_url)).scheme != "unix" and not re.fullmatch(r"/?\d*", at.path):
                raise ValueError("the database is not a number")  # which the client would take for 0
            return RedisStore(redis_url, ttl_s=ttl_s, lease_s=lease_s)
        except Exception as e:  # the client's message may hold the password
            raise AddressError("it is not a URL like redis://host:6379/0") from e
    if path:
        from service.replication.sqlite_store import SqliteStore

        return SqliteStore(path, ttl_s=ttl_s)
    return None
