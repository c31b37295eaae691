"""The store in Redis: one Redis Stream a log, fenced by its entry ids.

An entry's id is `<epoch>-<number>`. Redis refuses an id that is not above the last one: so a repeated write is
harmless, and once a new owner has written its marker `<epoch + 1>-0` every later write of the old one is refused. All
keys (redis_keys.py) have a time to live; leases end by Redis' own clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.replication import redis_keys as keys
from service.replication.records import NOWHERE, Entry, LogPosition
from service.replication.redis_client import Command, RedisClient, is_not_above, words
from service.replication.store import StoreDown, Write

TIMEOUT_S = 1.0  # for one answer
BLOCK_MS = 500  # shorter than the time-out of the connection that it blocks
MAX_CANCELS = 1000
# Expired leases read at once: more than one replica has, since most may be streams that no other can continue.
MAX_EXPIRED = 1024
KEY_TTL_S = 86400  # of an Idempotency-Key, until its stream has ended
PAGE = 1000  # entries of a log fetched per request


class RedisStore:
    """A replicator.Store. `ttl_s`: how long an ended stream is kept, and at least a live one after its last renewal.
    `timeout_s`: for one answer."""

    is_alone = False

    def __init__(self, url: str, *, ttl_s: float, lease_s: float, timeout_s: float = TIMEOUT_S) -> None:
        self.lease_s = lease_s
        self._redis = RedisClient(url, timeout_s=timeout_s, block_s=BLOCK_MS / 1000)
        self._lease_ms = round(lease_s * 1000)
        self.reservations = RedisReservations(self._redis)
        self.readers = RedisReaders(self._redis, valid_ms=2 * self._lease_ms)
        self._ttl_s = max(1, round(ttl_s))
        self._live_ttl_s = self._ttl_s + 60
        self._cancels_after: bytes | None = None

    async def write(self, writes: list[Write]) -> list[LogPosition]:
        commands: list[Command] = []
        lease_end = await self._redis.now_ms() + self._lease_ms if any(w.record is not None for w in writes) else 0
        of: list[int] = []  # by command: the write that it belongs to
        for i, write in enumerate(writes):
            made = keys.commands(write, lease_end, self._ttl_s, self._live_ttl_s)
            commands += made
            of += [i] * len(made)
        refused = set()
        for i, result in zip(of, await self._redis.pipeline(commands), strict=True):
            if result is None:  # NOMKSTREAM
                raise StoreDown("the first entries of a stream no longer exist")
            if is_not_above(result):
                refused.add(i)
            elif isinstance(result, Exception):
                raise StoreDown(words(result))
        places = [LogPosition(w.epoch, w.first + len(w.payloads) - 1) for w in writes]
        if refused:
            numbers = sorted(refused)
            for i, place in zip(numbers, await self.ends([writes[i].id for i in numbers]), strict=True):
                places[i] = place
        return places

    async def ends(self, ids: list[str]) -> list[LogPosition]:
        """Where each log ends; NOWHERE if there is none."""
        results = await self._redis.all([("XREVRANGE", keys.log(id), "+", "-", "COUNT", 1) for id in ids])
        return [keys.position(result[0][0]) if result else NOWHERE for result in results]

    async def load(self, id: str) -> tuple[bytes, list[Entry]] | None:
        """A stream's record and all entries, in their order."""
        record = await self.record(id)
        if record is None:
            return None
        entries: list[Entry] = []
        start = "-"
        while True:
            (page,) = await self._redis.all([("XRANGE", keys.log(id), start, "+", "COUNT", PAGE)])
            entries += keys.entries(page)
            if len(page) < PAGE:
                return record, entries
            start = f"({page[-1][0].decode()}"

    async def record(self, id: str) -> bytes | None:
        (found,) = await self._redis.all([("GET", keys.record(id))])
        assert found is None or isinstance(found, bytes)
        return found

    async def is_gone(self, id: str) -> bool:
        """Whether there was a stream of this id."""
        (found,) = await self._redis.all([("EXISTS", keys.gone(id))])
        return bool(found)

    async def drop(self, id: str, epoch: int, key: str | None) -> None:
        """Delete a stream that no client knows of."""
        its = [keys.log(id), keys.record(id), *([keys.reservation(key)] if key else [])]
        await self._redis.all([("DEL", *its), ("ZREM", keys.LIVE, keys.lease(id, epoch))])

    async def renew(self, owned: list[tuple[str, int]]) -> list[bool]:
        """Renew these for another lease. Returns which are still ours."""
        end = await self._redis.now_ms() + self._lease_ms
        commands: list[Command] = [("ZADD", keys.LIVE, "XX", "CH", end, keys.lease(id, epoch)) for id, epoch in owned]
        for id, _ in owned:
            commands += [("EXPIRE", key, self._live_ttl_s) for key in (keys.log(id), keys.record(id))]
        return [bool(changed) for changed in (await self._redis.all(commands))[: len(owned)]]

    async def expired(self) -> list[tuple[str, int, float]]:
        """(id, epoch, seconds since) of leases that have expired, the oldest first."""
        now = await self._redis.now_ms()
        found = (
            await self._redis.all(
                [("ZRANGE", keys.LIVE, "-inf", now, "BYSCORE", "LIMIT", 0, MAX_EXPIRED, "WITHSCORES")]
            )
        )[0]
        leases = []
        for member, end in zip(found[::2], found[1::2], strict=True):
            id, _, epoch = member.decode().partition(":")
            leases.append((id, int(epoch), (now - float(end)) / 1000))
        return leases

    async def claim(self, id: str, epoch: int) -> bool:
        """Become owner in `epoch`, the next one; False: another replica was faster."""
        end = await self._redis.now_ms() + self._lease_ms
        marker, *_ = await self._redis.pipeline(
            [
                ("XADD", keys.log(id), f"{epoch}-0", "v", b""),
                ("ZREM", keys.LIVE, keys.lease(id, epoch - 1)),
                # Even if that is refused: then the owner of this epoch has the same member, or it soon expires.
                ("ZADD", keys.LIVE, end, keys.lease(id, epoch)),
                ("EXPIRE", keys.log(id), self._live_ttl_s),
            ],
            whole=True,
        )
        if is_not_above(marker):
            return False
        if isinstance(marker, Exception):
            raise StoreDown(words(marker))
        return True

    async def hand_over(self, owned: list[tuple[str, int]]) -> None:
        """Let these leases expire now."""
        now = await self._redis.now_ms()
        await self._redis.all([("ZADD", keys.LIVE, "XX", now, keys.lease(id, epoch)) for id, epoch in owned])

    async def release(self, id: str, epoch: int) -> None:
        """Delete a lease that is of no use any more."""
        await self._redis.all([("ZREM", keys.LIVE, keys.lease(id, epoch))])

    async def follow(self, after: Mapping[str, LogPosition]) -> tuple[dict[str, list[Entry]], list[str]]:
        """The entries after these positions, and the streams to be cancelled; blocks BLOCK_MS for any."""
        if self._cancels_after is None:
            last = await self._redis.wait_for("XREVRANGE", keys.CANCELS, "+", "-", "COUNT", 1)
            self._cancels_after = last[0][0] if last else b"0-0"
        read = [keys.CANCELS, *(keys.log(id) for id in after)]
        places = [self._cancels_after, *(f"{p.epoch}-{p.number}" for p in after.values())]
        found = await self._redis.wait_for("XREAD", "COUNT", PAGE, "BLOCK", BLOCK_MS, "STREAMS", *read, *places)
        news: dict[str, list[Entry]] = {}
        cancels: list[str] = []
        for key, rows in found or []:
            if key == keys.CANCELS:
                self._cancels_after = rows[-1][0]
                cancels = [fields[b"id"].decode() for _, fields in rows]
            else:
                news[key.decode().removeprefix("rill:")] = keys.entries(rows)
        return news, cancels

    async def cancel(self, id: str) -> None:
        """Ask its owner to end it."""
        await self._redis.all(
            [("XADD", keys.CANCELS, "MAXLEN", "~", MAX_CANCELS, "*", "id", id), ("EXPIRE", keys.CANCELS, 60)]
        )

    async def close(self) -> None:
        await self._redis.close()


class RedisReservations:
    """A reservations.ReservationStore."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client

    async def reserve(self, key: str, value: bytes) -> bytes | None:
        """Set this key, or return the value that it has."""
        take = ("SET", keys.reservation(key), value, "NX", "EX", KEY_TTL_S)
        is_ours, found = await self._redis.all([take, ("GET", keys.reservation(key))])
        assert found is None or isinstance(found, bytes)
        return None if is_ours else found

    async def overwrite(self, key: str, value: bytes) -> None:
        await self._redis.all([("SET", keys.reservation(key), value, "EX", KEY_TTL_S)])

    async def free(self, key: str, value: bytes) -> None:
        """Delete this key, if its value has this prefix."""
        await self._redis.all([("EVAL", keys.FREE, 1, keys.reservation(key), value)])


class RedisReaders:
    """A leases.ReaderNotes. `valid_ms`: how long a note of a reader counts."""

    def __init__(self, client: RedisClient, *, valid_ms: int) -> None:
        self._redis, self._valid_ms = client, valid_ms

    async def note(self, ids: list[str]) -> None:
        """Note, for their owners, that these are read here."""
        now = await self._redis.now_ms()
        scored = [part for id in ids for part in (now, id)]
        old = ("ZREMRANGEBYSCORE", keys.READ, "-inf", now - self._valid_ms)
        await self._redis.all([("ZADD", keys.READ, *scored), old, ("EXPIRE", keys.READ, 60)])

    async def elsewhere(self, ids: list[str]) -> list[str]:
        """Which of these a replica noted recently."""
        now = await self._redis.now_ms()
        (scores,) = await self._redis.all([("ZMSCORE", keys.READ, *ids)])
        return [
            id
            for id, score in zip(ids, scores, strict=True)
            if score is not None and now - float(score) < self._valid_ms
        ]
