"""The keys of the store in Redis, and what a write is made of. No I/O.

rill:{id}          the log                     rill:live      `<id>:<epoch>` by the end of its lease, ms
rill:{id}:gone     set when it ends, and outlives it
rill:{id}:record   what an adopter needs       rill:read      ids by the time when a follower last had readers
rill:key:…         Idempotency-Keys            rill:cancels   ids to be cancelled by their owners
"""

from __future__ import annotations

from typing import Any

from service.replication.records import Entry, LogPosition
from service.replication.store import GONE_S, Write

# Deletes a key whose value has this prefix, atomically: between a GET and a DEL another replica may have taken it.
FREE = """
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, string.len(ARGV[1])) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
LIVE, READ, CANCELS = b"rill:live", b"rill:read", b"rill:cancels"


def commands(write: Write, lease_end: int, ttl_s: int, live_ttl_s: int) -> list[tuple[Any, ...]]:
    its_log, its_record = log(write.id), record(write.id)
    made: list[tuple[Any, ...]] = []
    if write.record is not None:
        made += [
            ("SET", its_record, write.record, "EX", live_ttl_s),
            ("ZADD", LIVE, lease_end, lease(write.id, write.epoch)),
            ("XADD", its_log, f"{write.epoch}-0", "v", b""),
            ("EXPIRE", its_log, live_ttl_s),
        ]
    for number, payload in enumerate(write.payloads, write.first):
        # A log that is gone is not started again in its middle: its gap would go unnoticed.
        made.append(("XADD", its_log, "NOMKSTREAM", f"{write.epoch}-{number}", "v", payload))
    if write.is_last:
        keys = (its_log, its_record, *([reservation(write.key)] if write.key else []))
        made += [("EXPIRE", key, ttl_s) for key in keys]
        made.append(("SET", gone(write.id), b"", "EX", ttl_s + round(GONE_S)))
        made.append(("ZREM", LIVE, lease(write.id, write.epoch)))
    return made


def log(id: str) -> bytes:
    return b"rill:%b" % id.encode()


def record(id: str) -> bytes:
    return b"rill:%b:record" % id.encode()


def gone(id: str) -> bytes:
    return b"rill:%b:gone" % id.encode()


def reservation(key: str) -> bytes:
    return b"rill:key:%b" % key.encode()


def lease(id: str, epoch: int) -> bytes:
    return b"%b:%d" % (id.encode(), epoch)


def position(id: bytes) -> LogPosition:
    epoch, _, number = id.partition(b"-")
    return LogPosition(int(epoch), int(number))


def entries(rows: list[Any]) -> list[Entry]:
    return [(position(id), fields[b"v"]) for id, fields in rows]
