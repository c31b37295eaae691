"""What every store does, Redis and file alike, and Writer, Follower and Replication rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.replication.records import NOWHERE, LogPosition
from service.replication.redis_store import RedisStore
from service.replication.replicator import Store
from service.replication.sqlite_store import SqliteStore
from service.replication.store import Write
from tests.patience import PATIENCE_S
from tests.redis_server import RedisServer

TTL_S = 60.0
ID, OTHER = "a" * 32, "b" * 32


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.e2e)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store: Store
    if request.param == "sqlite":
        store = SqliteStore(str(tmp_path / "streams.db"), ttl_s=TTL_S, timeout_s=PATIENCE_S)
    else:
        redis: RedisServer = request.getfixturevalue("redis")
        store = RedisStore(redis.url, ttl_s=TTL_S, lease_s=PATIENCE_S, timeout_s=PATIENCE_S)
    yield store
    await store.close()


def write(first: int = 1, *payloads: bytes, id: str = ID, epoch: int = 1, **more: Any) -> Write:
    return Write(id=id, epoch=epoch, first=first, payloads=list(payloads), **more)


async def begin(store: Store, *payloads: bytes, id: str = ID, **more: Any) -> LogPosition:
    (place,) = await store.write([write(1, *payloads, id=id, record=b"{}", **more)])
    return place


async def logged(store: Store, id: str = ID) -> list[tuple[LogPosition, bytes]]:
    """The log without the owners' markers."""
    loaded = await store.load(id)
    return [(place, payload) for place, payload in loaded[1] if place.number] if loaded else []


async def leases(store: Store) -> list[tuple[str, int]]:
    """The expired ones."""
    return [(id, epoch) for id, epoch, _ in await store.expired()]


async def test_what_is_written_can_be_read(store: Store) -> None:
    """Record and entries, in order; several streams in one write; nothing of an unknown stream."""
    writes = [write(1, b"x", b"y", record=b"r"), write(1, b"z", id=OTHER, record=b"s")]
    assert await store.write(writes) == [LogPosition(1, 2), LogPosition(1, 1)]
    assert await store.write([write(3, b"w")]) == [LogPosition(1, 3)]
    assert await logged(store) == [(LogPosition(1, 1), b"x"), (LogPosition(1, 2), b"y"), (LogPosition(1, 3), b"w")]
    assert (await store.record(ID), await store.record(OTHER)) == (b"r", b"s")
    assert await store.ends([OTHER, ID, "c" * 32]) == [LogPosition(1, 1), LogPosition(1, 3), NOWHERE]
    assert (await store.load("c" * 32), await store.record("c" * 32)) == (None, None)


async def test_a_stream_without_events(store: Store) -> None:
    """It exists, and ends at its owner's marker."""
    assert await begin(store) == LogPosition(1, 0)
    assert await store.ends([ID]) == [LogPosition(1, 0)]
    assert await logged(store) == []


async def test_a_repeated_write_is_harmless(store: Store) -> None:
    """A write with an unknown outcome is repeated, with later entries; the record, too."""
    await begin(store, b"x", b"y")
    assert await begin(store, b"x", b"y") == LogPosition(1, 2)
    assert await store.write([write(2, b"y", b"z")]) == [LogPosition(1, 3)]
    assert await store.write([write(1, b"x")]) == [LogPosition(1, 3)]
    assert [payload for _, payload in await logged(store)] == [b"x", b"y", b"z"]


async def test_an_old_owner_is_fenced(store: Store) -> None:
    """After a claim no entry of an earlier epoch is accepted, and the result says where the log ends."""
    await begin(store, b"x")
    await begin(store, id=OTHER)
    assert await store.claim(ID, 2)
    assert await store.write([write(2, b"late"), write(1, b"z", id=OTHER)]) == [LogPosition(2, 0), LogPosition(1, 1)]
    assert await store.write([write(2, b"y", epoch=2)]) == [LogPosition(2, 2)]
    assert await store.write([write(2, b"late", b"later")]) == [LogPosition(2, 2)]
    assert await logged(store) == [(LogPosition(1, 1), b"x"), (LogPosition(2, 2), b"y")]


async def test_one_of_many_claims_succeeds(store: Store) -> None:
    """Of those in the same epoch, and none in an earlier one."""
    await begin(store, b"x")
    assert sorted(await asyncio.gather(*(store.claim(ID, 2) for _ in range(3)))) == [False, False, True]
    assert not await store.claim(ID, 1)
    assert await store.ends([ID]) == [LogPosition(2, 0)]


async def test_the_owner_of_a_stream(store: Store) -> None:
    """The first one, until it hands the stream over; then the replica that claims it; and none once it has ended."""
    await begin(store, b"x")
    await begin(store, id=OTHER)
    assert await leases(store) == []
    assert await store.renew([(ID, 1), ("c" * 32, 1)]) == [True, False]
    await store.hand_over([(ID, 1)])
    assert await leases(store) == [(ID, 1)]
    assert await store.claim(ID, 2)
    assert await leases(store) == []
    await store.write([write(2, b"end", epoch=2, is_last=True)])
    await store.hand_over([(ID, 2)])
    assert await leases(store) == []
    assert await logged(store) == [(LogPosition(1, 1), b"x"), (LogPosition(2, 2), b"end")]


async def test_a_released_lease(store: Store) -> None:
    """The stream is not offered for adoption any more; its log can be read."""
    await begin(store, b"x")
    await store.hand_over([(ID, 1)])
    await store.release(ID, 1)
    assert await leases(store) == []
    assert await logged(store) == [(LogPosition(1, 1), b"x")]


async def test_a_stream_unknown_to_its_client_is_dropped(store: Store) -> None:
    """Its log, its record, its lease and its key."""
    await store.reservations.reserve("t:k", b"v")
    await begin(store, b"x", key="t:k")
    await begin(store, b"z", id=OTHER)
    await store.drop(ID, 1, "t:k")
    await store.drop("c" * 32, 1, None)
    assert (await store.load(ID), await store.ends([ID, OTHER])) == (None, [NOWHERE, LogPosition(1, 1)])
    assert await store.reservations.reserve("t:k", b"w") is None


async def test_a_key_is_reserved_once(store: Store) -> None:
    """A later attempt gets the first one's value; it can be overwritten."""
    found = await asyncio.gather(*(store.reservations.reserve("k", b"%d" % n) for n in range(3)))
    assert found.count(None) == 1
    assert {value for value in found if value is not None} == {b"%d" % found.index(None)}
    await store.reservations.overwrite("k", b"new")
    assert await store.reservations.reserve("k", b"x") == b"new"
    assert await store.reservations.reserve("other", b"x") is None


async def test_a_key_is_freed_by_its_holder(store: Store) -> None:
    """A key that another request has reserved meanwhile is left alone."""
    await store.reservations.reserve("k", b'["a",1]')
    await store.reservations.free("k", b'["b"')
    assert await store.reservations.reserve("k", b"x") == b'["a",1]'
    await store.reservations.free("k", b'["a"')
    await store.reservations.free("nobody's", b"")
    assert await store.reservations.reserve("k", b"x") is None


async def test_a_cancel_reaches_the_owner(store: Store) -> None:
    """While it follows, and only cancels after it has begun to."""
    await begin(store, b"x")
    following = asyncio.create_task(store.follow({}))
    while not following.done():
        await store.cancel(ID)
        await asyncio.sleep(0)
    assert ID in (await following)[1]


async def test_a_closed_store_can_be_closed_again(store: Store) -> None:
    """It has released its resources by then."""
    await store.close()
    await store.close()
