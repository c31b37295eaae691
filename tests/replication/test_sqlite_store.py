"""A service with its streams in a file: what its next run continues, and what happens when the file fails.

Two runs are two services in this process, one after the other; tests/starter/test_restart.py has real processes.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.replication.records import NOWHERE, LogPosition
from service.replication.sqlite_file import APPLICATION
from service.replication.sqlite_store import PURGE_S, SqliteStore
from service.replication.store import StoreDown, Write
from tests.conftest import Serve, Service, read
from tests.events import Event, parse, text
from tests.fakes import PROMPT, ROUTES
from tests.patience import PATIENCE_S
from tests.replicas import begun, check_beyond, first_events, is_durable, kill, receipt, replication, stream_of, until

ROOT = Path(__file__).parents[2]
TTL_S = 60.0
ID = "a" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "streams.db"


Restart = Callable[..., Awaitable[Service]]


@pytest.fixture
def restart(serve: Serve, path: Path) -> Restart:
    """`await restart()`: a service on the file with a hand-driven engine; the one before is killed first."""
    services: list[Service] = []

    async def one(**settings: Any) -> Service:
        if services:
            await end(services[-1])
        services.append(await serve(**{"store_path": str(path), "by_hand": True, **settings}))
        return services[-1]

    return one


async def end(service: Service) -> None:
    """Kills it, and closes its file as it is."""
    await kill(service)
    await replication(service)._store.close()


async def durable(service: Service, *texts: str, **more: Any) -> str:
    """A stream with these texts, all of them in the file."""
    id = await begun(service, *texts, **more)
    await until(lambda: is_durable(service, id))
    return id


# Restarts.


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_a_stream_continues_after_a_restart(restart: Restart, route: str, body: dict[str, Any]) -> None:
    """After the last token in the file, at once, with its seed; a reader that reconnects before the engine is ready
    waits, and loses and repeats nothing."""
    one = await restart()
    id = await durable(one, "a", "b", path=route, body=body)
    whole = await first_events(one, id, len(stream_of(one, id).log))
    two = await restart(starts_ready=False)
    async with two.client.get(f"/v1/streams/{id}", headers={"Last-Event-ID": whole[-1].id}) as response:
        two.engine.load()
        adopted = await asyncio.wait_for(two.engine.submission(), PATIENCE_S)
        assert (adopted.id, adopted.delivered) == (id, [7, 7])
        assert adopted.sampling.seed == one.engine.submitted[0].sampling.seed
        two.engine.accept(id)
        two.engine.delta(id, "c")
        two.engine.finish(id, n_generated=3)
        rest = parse(await response.read())
    assert await read(two, f"/v1/streams/{id}") == (200, whole + rest)
    assert await two.metric("llm_streams_adopted_total") == 1


@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_a_finished_stream_is_readable_after_a_restart(
    restart: Restart, route: str, body: dict[str, Any]
) -> None:
    """After any event, and by its Idempotency-Key: nothing is generated again."""
    key = {"Idempotency-Key": "k"}
    one = await restart(by_hand=False)
    async with one.client.post(route, json=body, headers=key) as response:
        id, raw = response.headers["X-Stream-Id"], await response.read()
    await until(lambda: not replication(one).writer.copies)
    two = await restart()
    events = parse(raw)
    assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": events[0].id}) == (200, events[1:])
    assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    async with two.client.post(route, json=body, headers=key) as response:
        assert (response.headers["X-Stream-Id"], await response.read()) == (id, raw)
    async with two.client.post(route, json={**body, "seed": 5}, headers=key) as response:
        assert response.status == 409
    assert (await receipt(two, id))["finish_reason"] == "stop"
    assert two.engine.submitted == []


async def test_a_key_names_a_live_stream_after_a_restart(restart: Restart) -> None:
    """The same request with the same key gets the stream, which continues."""
    one = await restart()
    key = {"Idempotency-Key": "k"}
    asking = asyncio.create_task(one.client.post("/stream", json=PROMPT, headers=key))
    id = (await one.engine.submission()).id
    one.engine.accept(id)
    (await asking).close()
    one.engine.delta(id, "a")
    await until(lambda: is_durable(one, id))
    two = await restart()
    async with two.client.post("/stream", json=PROMPT, headers=key) as response:
        assert response.headers["X-Stream-Id"] == id
        assert (await two.engine.submission()).delivered == [7]
        two.engine.finish(id)
        assert text(parse(await response.read())) == "a"
    assert len(two.engine.submitted) == 1


@pytest.mark.parametrize("is_behind", [False, True])
async def test_a_drain_leaves_its_streams_to_the_next_run(restart: Restart, is_behind: bool) -> None:
    """Resumable ones do not end, and their readers are disconnected; the others end with shutting_down; the stopping
    process adopts none of them. Also if a write takes long just then."""
    one = await restart(drain_s=0)
    id = await durable(one, "a")
    asking = asyncio.create_task(one.client.post("/stream", json=PROMPT))
    plain = (await one.engine.submission(2)).id
    one.engine.accept(plain)
    other = await asking
    async with one.client.get(f"/v1/streams/{id}") as response:
        raw = b""
        while b'"a"' not in raw:
            raw += await response.content.readany()
        if is_behind:
            replication(one).writer._go_ahead()
        await one.rill.drain(asyncio.Event())
        with pytest.raises(aiohttp.ClientError):
            raw += await response.read()
    assert [event.name for event in parse(raw)][-1] == "message"
    assert b"shutting_down" in await other.read()
    await replication(one).leases.turn()
    assert len(one.engine.submitted) == 2
    await one.runner.cleanup()
    two = await restart()
    assert (await two.engine.submission()).delivered == [7]
    two.engine.delta(id, "b")
    two.engine.finish(id)
    status, rest = await read(two, "/stream", **{"Last-Event-ID": parse(raw)[-1].id})
    assert (status, text(parse(raw) + rest), rest[-1].name) == (200, "ab", "done")
    assert (await receipt(two, plain))["error"]["code"] == "shutting_down"


async def test_many_restarts(restart: Restart) -> None:
    """Each run continues where the one before stopped, in its own epoch."""
    service = await restart()
    id = await durable(service, "0")
    for n in range(1, 5):
        service = await restart()
        assert (await service.engine.submission()).delivered == [7] * n
        service.engine.delta(id, str(n))
        await until(lambda now=service: is_durable(now, id))  # type: ignore[misc]
    assert replication(service).writer.copies[id].epoch == 5
    service.engine.finish(id)
    _, events = await read(service, f"/v1/streams/{id}")
    assert text(events) == "01234"


@pytest.mark.parametrize(("words", "ends"), [(("b", "c"), "done"), (("b", "x"), "failure")])
async def test_beyond_the_file(restart: Restart, path: Path, words: tuple[str, ...], ends: str) -> None:
    """A reader has events that never reached the file: if the same are generated again it continues, else it fails."""
    one = await restart()
    id = await durable(one, "a")
    move_away(path)
    one.engine.delta(id, "b", "c")
    has = await first_events(one, id, len(stream_of(one, id).log))
    await kill(one)
    move_back(path)
    two = await restart()
    assert (await two.engine.submission()).delivered == [7]
    await check_beyond(two, id, has, words, ends)


async def failed(service: Service, id: str) -> list[Event]:
    """What a reader gets of a stream that can't be continued."""
    status, events = await read(service, f"/v1/streams/{id}")
    assert (status, events[-1].name, events[-1].json()["error"]["code"]) == (200, "failure", "engine_crash")
    assert service.engine.submitted == []
    return events


async def test_another_model_never_continues(restart: Restart) -> None:
    """The reader gets the logged events, and at once a failure: there is no other replica to continue the stream."""
    one = await restart()
    id = await durable(one, "a")
    two = await restart(digest="another")
    assert text(await failed(two, id)) == "a"
    three = await restart()
    assert text(await failed(three, id)) == "a"


async def test_prompts_need_not_be_stored(restart: Restart, path: Path) -> None:
    """If disabled, nothing of the request is in the file; the answer is, and the stream ends with its run."""
    secret = "whisper-4821"
    one = await restart(store_prompts=False)
    id = await durable(one, "aloud", body={"prompt": secret, "stop": [secret]})
    assert b"aloud" in on_disk(path) and secret.encode() not in on_disk(path)
    two = await restart(store_prompts=False)
    assert text(await failed(two, id)) == "aloud"


async def test_a_cancel_before_the_engine_is_ready(restart: Restart) -> None:
    """A stream of an earlier run that is deleted meanwhile ends as soon as it is adopted."""
    one = await restart()
    id = await durable(one, "a")
    two = await restart(starts_ready=False)
    async with two.client.delete(f"/v1/streams/{id}") as response:
        assert response.status == 204
    two.engine.load()
    await until(lambda: not stream_of(two, id).open)
    assert (await receipt(two, id))["finish_reason"] == "cancelled"


async def test_the_clock_was_set_back(restart: Restart, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day, between two runs: the stream continues, and has no negative duration."""
    one = await restart()
    id = await durable(one, "a")
    monkeypatch.setattr("service.replication.replicator.time.time", lambda: 0.0)
    two = await restart()
    await two.engine.submission()
    two.engine.delta(id, "b")
    two.engine.finish(id)
    _, events = await read(two, f"/v1/streams/{id}")
    assert text(events) == "ab"
    assert events[-1].json()["timings"]["total_s"] >= 0


# The file fails.


def move_away(path: Path) -> None:
    """A directory takes its place."""
    path.rename(path.with_suffix(".away"))
    path.mkdir()


def move_back(path: Path) -> None:
    path.rmdir()
    path.with_suffix(".away").rename(path)


def corrupt(path: Path) -> None:
    garbage = path.with_suffix(".rubbish")
    garbage.write_bytes(b"this is no database" * 1000)
    garbage.replace(path)  # atomically: a missing file would be made anew, and then overwritten unnoticed


FAILURES: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "moved away": (move_away, move_back),
    "deleted": (move_away, Path.rmdir),
    "broken": (corrupt, Path.unlink),
}


@pytest.mark.parametrize("how", FAILURES)
async def test_the_file_fails(restart: Restart, path: Path, how: str) -> None:
    """Streams continue from memory, are not durable, and are written again with the same ids: to the file once it is
    back, or to a new one."""
    fail, mend = FAILURES[how]
    one = await restart()
    id = await durable(one, "a", "b")
    async with one.client.get(f"/v1/streams/{id}") as response:
        fail(path)
        one.engine.delta(id, *"cdef")
        raw = b""
        async with asyncio.timeout(PATIENCE_S):
            while b'"f"' not in raw:
                raw += await response.content.readany()
        await until(lambda: not stream_of(one, id).log.is_durable)
        assert await one.metric("llm_streams_not_durable") == 1
        mend(path)
        await until(lambda: is_durable(one, id))
        one.engine.delta(id, "g")
        await until(lambda: is_durable(one, id))
        one.engine.finish(id)
        raw += await response.read()
    assert text(parse(raw)) == "abcdefg"
    await until(lambda: not replication(one).writer.copies)
    two = await restart()
    assert await read(two, f"/v1/streams/{id}") == (200, parse(raw))


async def test_an_idle_streams_file_is_deleted(restart: Restart, path: Path) -> None:
    """It is noticed without a write, and the stream is written to a new file."""
    one = await restart()
    id = await durable(one, "a")
    await asyncio.to_thread(path.unlink)
    # Its bytes may be there before the transaction is: then it is not reported as durable yet.
    await until(lambda: path.exists() and id.encode() in on_disk(path) and is_durable(one, id))
    two = await restart()
    assert (await asyncio.wait_for(two.engine.submission(), PATIENCE_S)).delivered == [7]


async def test_while_the_file_is_missing_clients_are_told_to_retry(restart: Restart, path: Path) -> None:
    """It is unknown whether the stream exists: 503, never `stream_lost`."""
    one = await restart()
    move_away(path)
    async with one.client.get(f"/v1/streams/{ID}") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")


# The store by itself.


def on_disk(path: Path) -> bytes:
    """All bytes of the file and its write-ahead log."""
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


def write(first: int, *payloads: bytes, id: str = ID, **more: Any) -> Write:
    return Write(id=id, epoch=1, first=first, payloads=list(payloads), **more)


class Clock:
    """Wall time, which may be set back."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def opened(path: Path, clock: Clock | None = None) -> SqliteStore:
    return SqliteStore(str(path), ttl_s=TTL_S, timeout_s=PATIENCE_S, clock=clock or Clock())


async def purged(store: SqliteStore) -> None:
    store._purge_at = 0.0
    await store.expired()


async def test_streams_of_an_earlier_run(path: Path) -> None:
    """Live ones can be adopted, whatever the time: they have no owner, and no other replica will adopt them."""
    clock = Clock()
    one = opened(path, clock)
    await one.write([write(1, b"x", record=b"r"), write(1, b"x", id="b" * 32, record=b"r", is_last=True)])
    await one.close()
    clock.now += 1e6
    two = opened(path, clock)
    assert await two.expired() == [(ID, 1, float("inf"))]
    assert await two.claim(ID, 2)
    assert await two.expired() == []
    await two.close()


async def test_everything_expires(path: Path) -> None:
    """An ended stream is deleted from the disk after its time to live, with its text and its key; a live one is not."""
    clock = Clock()
    store = opened(path, clock)
    await store.reservations.reserve("short", b"v")
    await store.reservations.reserve("long", b"v")
    await store.write(
        [write(1, b"secret", record=b"asked", key="short"), write(1, id="b" * 32, record=b"r", key="long")]
    )
    clock.now += TTL_S * 2
    await purged(store)
    assert [await store.reservations.reserve(key, b"w") for key in ("short", "long")] == [b"v", b"v"]
    await store.write([write(2, b"end", is_last=True)])
    clock.now += TTL_S - 1
    await purged(store)
    assert await store.ends([ID]) == [LogPosition(1, 2)]
    clock.now += 1
    await purged(store)
    assert (await store.load(ID), await store.ends([ID, "b" * 32])) == (None, [NOWHERE, LogPosition(1, 0)])
    assert [await store.is_gone(id) for id in (ID, "b" * 32, "c" * 32)] == [True, False, False]
    assert [await store.reservations.reserve(key, b"w") for key in ("short", "long")] == [None, b"v"]
    assert b"secret" not in on_disk(path) and b"asked" not in on_disk(path)
    await store.close()


async def test_a_clock_that_was_set_back_keeps_nothing_for_longer(path: Path) -> None:
    """An expiry that the clock says is a year off is reduced to the time to live."""
    clock = Clock()
    store = opened(path, clock)
    await store.reservations.reserve("k", b"v")
    await store.write([write(1, b"x", record=b"r", is_last=True)])
    clock.now -= 365 * 86400
    await purged(store)
    assert await store.ends([ID]) == [LogPosition(1, 1)]
    clock.now += TTL_S + PURGE_S
    await purged(store)
    assert await store.ends([ID]) == [NOWHERE]
    await store.close()


async def test_the_file_does_not_grow_for_ever(path: Path) -> None:
    """The space of what is deleted is given back."""
    clock = Clock()
    store = opened(path, clock)
    await store.write(
        [write(1, *[os.urandom(500)] * 2000, id=f"{n:032x}", record=b"r", is_last=True) for n in range(4)]
    )
    await store.write([write(1, record=b"r")])
    clock.now += TTL_S
    assert len(on_disk(path)) > 4_000_000
    await purged(store)
    assert len(on_disk(path)) < 200_000
    await store.close()


async def test_only_its_owner_may_read_it(path: Path) -> None:
    """Even if it was made with other permissions."""
    os.close(os.open(path, os.O_CREAT, 0o644))
    store = opened(path)
    await store.write([write(1, b"x", record=b"r")])
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    await store.close()


async def test_one_process_has_the_file(path: Path) -> None:
    """Another one gets an error, and the first continues."""
    one = opened(path)
    with pytest.raises(StoreDown, match="another process has it open"):
        opened(path)
    assert await one.write([write(1, b"x", record=b"r")]) == [LogPosition(1, 1)]
    await one.close()
    await opened(path).close()


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cookies (name)")


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(f"CREATE TABLE x (y); PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 7;")


def with_a_broken_page(path: Path) -> None:
    async def fill() -> None:
        store = opened(path)
        await store.write([write(1, *[os.urandom(500)] * 200, record=b"r")])
        await store.close()

    asyncio.run(fill())
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(os.urandom(8 * 4096))


UNUSABLE: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.mkdir(), "it is not a file"),
    (lambda path: path.write_bytes(b"no database" * 1000), "file is not a database"),
    (of_another_program, "it is another program's database"),
    (of_another_version, "it has version 7, and version 1 is needed; move it away"),
    (with_a_broken_page, "it is corrupt; move it away"),
]


@pytest.mark.parametrize(("make", "said"), UNUSABLE)
def test_an_unusable_file(path: Path, make: Callable[[Path], object], said: str) -> None:
    """It is refused, in a line that names it, and left unchanged."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreDown) as error:
        opened(path)
    assert str(error.value) == f"{path}: {said}"
    assert before == (path.read_bytes() if path.is_file() else b"")


def test_a_missing_directory(path: Path) -> None:
    """It is not created."""
    with pytest.raises(StoreDown, match="No such file or directory"):
        opened(path / "streams.db")


async def test_a_name_is_a_files_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one with a special meaning for SQLite; and it stays that file when the process changes its directory."""
    monkeypatch.chdir(path.parent)
    store = opened(Path(":memory:"))
    monkeypatch.chdir("/")
    assert await store.write([write(1, b"x", record=b"r")]) == [LogPosition(1, 1)]
    await store.close()
    assert b"x" in on_disk(path.with_name(":memory:"))


async def test_a_write_is_atomic(path: Path) -> None:
    """One that fails in its middle leaves nothing of its beginning."""
    store = opened(path)
    await store.write([write(1, b"x", record=b"r")])
    with pytest.raises(StoreDown, match="first entries of a stream no longer exist"):
        await store.write([write(2, b"y"), write(5, b"y", id="b" * 32)])
    assert await store.ends([ID, "b" * 32]) == [LogPosition(1, 1), NOWHERE]
    await store.close()


# Writes to 16 streams at once, one entry each, and prints which were acknowledged, until it is killed.
FOR_EVER = """
import asyncio
from tests.replication.test_sqlite_store import IDS, opened, write
from pathlib import Path
import sys

async def main():
    store = opened(Path(sys.argv[1]))
    await store.write([write(1, id=id, record=b"r") for id in IDS])
    for n in range(1, 1_000_000):
        await store.write([write(n, b"x" * 300, id=id) for id in IDS])
        print(n, flush=True)

asyncio.run(main())
"""
IDS = [f"{n:032x}" for n in range(16)]


@pytest.mark.parametrize("n_before", [1, 30, 100, 300])
async def test_killed_in_a_write(path: Path, n_before: int) -> None:
    """Acknowledged entries are there, whole writes only, and the file is intact."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FOR_EVER, str(path)), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    for _ in range(n_before):
        await process.stdout.readline()
    process.kill()
    rest, _ = await process.communicate()
    n_acknowledged = n_before + rest.count(b"\n")
    store = opened(path)
    (end, *others) = await store.ends(IDS)
    assert n_acknowledged <= end.number <= n_acknowledged + 1
    assert set(others) == {end}
    loaded = await store.load(IDS[3])
    assert loaded is not None and [place.number for place, _ in loaded[1]] == list(range(end.number + 1))
    await store.close()
