"""Replicas with a shared log in a real Redis: any of them serves any stream, and adopts it when its owner dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from service.protocol.frames import Rejected
from service.replication.store import StoreDown
from tests.conftest import Serve, Service, read
from tests.events import Event, parse, text
from tests.fakes import CHAT, PROMPT, ROUTES
from tests.patience import PATIENCE_S
from tests.redis_server import RedisServer
from tests.replicas import (
    begun,
    check_beyond,
    first_events,
    is_durable,
    kill,
    receipt,
    replication,
    resume,
    stand_still,
    stream_of,
    suspend,
    until,
    wake,
)

pytestmark = pytest.mark.e2e

LEASE_S = 1.5  # a third of it is longer than a busy machine delays this process
FULL = ("CONFIG", "SET", "maxmemory", "1")
NOT_FULL = ("CONFIG", "SET", "maxmemory", "0")


async def pair(serve: Serve, redis: RedisServer, **settings: Any) -> tuple[Service, Service]:
    """Two replicas with hand-driven engines and short leases."""
    settings = {"redis_url": redis.url, "by_hand": True, "lease_s": LEASE_S, **settings}
    return await serve(**settings), await serve(**settings)


async def pair_and_stream(serve: Serve, redis: RedisServer, **settings: Any) -> tuple[Service, Service, str]:
    """Such a pair, and a stream of the first with the text "a", which is logged."""
    one, two = await pair(serve, redis, **settings)
    id = await begun(one, "a")
    await until(lambda: is_durable(one, id))
    return one, two, id


async def read_some(service: Service, id: str) -> list[Event]:
    """All events that its log has now."""
    await service.rill.directory.locate(id)
    return await first_events(service, id, len(stream_of(service, id).log))


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_any_replica_reads_a_finished_stream(
    serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]
) -> None:
    """After any event, in the dialect that it was started with; after the last one 204."""
    one, two = await serve(redis_url=redis.url), await serve(redis_url=redis.url)
    async with one.client.post(path, json=body, headers={"X-Resumable": "1"}) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    for n, event in enumerate(events[:-1]):
        assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": event.id}) == (200, events[n + 1 :])
    assert await read(two, f"/v1/streams/{id}", **{"Last-Event-ID": events[-1].id}) == (204, [])
    assert await read(two, f"/v1/streams/{id}") == (200, events)
    assert (await receipt(two, id))["durable"] is True
    assert two.engine.submitted == []


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_any_replica_reads_it_live(serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]) -> None:
    """A reader at another replica gets each event as it is generated."""
    one, two = await serve(redis_url=redis.url, by_hand=True), await serve(redis_url=redis.url)
    id = await begun(one, "a", path=path, body=body)
    async with two.client.get(f"/v1/streams/{id}") as response:
        raw = b""
        for word in ("b", "c", "d"):
            while word.join('""').encode() not in raw:
                one.engine.delta(id, word)
                raw += await response.content.readany()
                break
        one.engine.finish(id)
        raw += await response.read()
    assert (200, parse(raw)) == await read(one, f"/v1/streams/{id}")


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_dead_replicas_stream_is_adopted(
    serve: Serve, redis: RedisServer, path: str, body: dict[str, Any]
) -> None:
    """Another replica continues it after the last logged token; its reader loses and repeats nothing."""
    one, two = await pair(serve, redis)
    id = await begun(one, "a", "b", path=path, body=body)
    await until(lambda: is_durable(one, id))
    whole = await first_events(one, id, len(stream_of(one, id).log))
    async with two.client.get(f"/v1/streams/{id}", headers={"Last-Event-ID": whole[-1].id}) as response:
        await kill(one)
        adopted = await two.engine.submission()
        assert (adopted.id, adopted.delivered) == (id, [7, 7])
        assert adopted.sampling.seed == one.engine.submitted[0].sampling.seed
        two.engine.accept(id)
        two.engine.delta(id, "c")
        two.engine.finish(id, n_generated=3)
        rest = parse(await response.read())
    assert await read(two, f"/v1/streams/{id}") == (200, whole + rest)
    if path == "/stream":
        assert text(whole + rest) == "abc"
        assert "ttft_s" not in rest[-1].json()["timings"], "only the dead replica knew it"
    assert await two.metric("llm_streams_adopted_total") == 1


async def test_an_unread_stream_is_not_adopted(serve: Serve, redis: RedisServer) -> None:
    """A stream that ends with its reader is not continued when its replica dies, unless it is read at another one."""
    one, two = await pair(serve, redis, resume_grace_s=0.5)
    ids = []
    for n in (1, 2):
        asking = asyncio.create_task(one.client.post("/stream", json=PROMPT))
        ids.append((await one.engine.submission(n)).id)
        one.engine.accept(ids[-1])
        await asking
        one.engine.delta(ids[-1], "a")
    unread, is_read = ids
    await until(lambda: is_durable(one, unread) and is_durable(one, is_read))
    async with two.client.get(f"/v1/streams/{is_read}"):
        await kill(one)
        assert (await two.engine.submission()).id == is_read
        await until(lambda: (lost := two.rill.streams.find(unread)) is not None and not lost.open)
    assert [submit.id for submit in two.engine.submitted] == [is_read]


async def test_unread_streams_do_not_delay_an_adoption(serve: Serve, redis: RedisServer) -> None:
    """Among any number of a dead replica's streams that are not adopted, the one that a reader may resume is found at
    once, and it needs no place in the queue."""
    one, two = await pair(serve, redis, resume_grace_s=1000.0, n_seq=1, max_waiting=100)
    for n in range(1, 41):
        asking = asyncio.create_task(one.client.post("/stream", json=PROMPT))
        id = (await one.engine.submission(n)).id
        one.engine.accept(id)
        await asking
    wanted = await begun(one, "a")
    full = [await begun(two, "b") for _ in range(101)]
    await until(lambda: is_durable(one, wanted))
    await kill(one)
    adopted = await two.engine.submission(len(full) + 1)
    assert (adopted.id, adopted.is_owed) == (wanted, True)


async def test_a_cancel_that_does_not_reach_the_owner_is_503(serve: Serve, redis: RedisServer) -> None:
    """As long as the follower can't pass it on; once it can, the stream ends."""
    one, two, id = await pair_and_stream(serve, redis)
    async with two.client.get(f"/v1/streams/{id}") as response:
        redis.stop()
        async with two.client.delete(f"/v1/streams/{id}") as refused:
            assert (refused.status, (await refused.json())["error"]["code"]) == (503, "not_ready")
        redis.start()
        status = 503
        while status == 503:
            async with two.client.delete(f"/v1/streams/{id}") as answer:
                status = answer.status
        assert status == 204
        assert b"cancelled" in await response.read()
    assert id in one.engine.cancelled


async def test_a_full_replica_leaves_an_adoption_to_others(serve: Serve, redis: RedisServer) -> None:
    """If a dead replica's stream would have to wait, it is left for one more lease to replicas that can run it now."""
    one, full = await pair(serve, redis, n_seq=1)
    id, _ = await begun(one, "a"), await begun(full, "b")
    await until(lambda: is_durable(one, id))
    await kill(one)
    await suspend(full)  # the test takes its turns
    await replication(full).leases._inherit(id, 1, overdue_s=0.0)
    assert len(full.engine.submitted) == 1
    await replication(full).leases._inherit(id, 1, overdue_s=LEASE_S)
    assert full.engine.submitted[1].id == id


async def test_a_stale_owner_is_fenced(serve: Serve, redis: RedisServer) -> None:
    """An owner that was away while another replica adopted its stream writes nothing more, cancels it at its engine,
    and follows the new owner's log."""
    one, two, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        await suspend(one)
        await two.engine.submission()
        one.engine.delta(id, "b", "c")
        two.engine.accept(id)
        two.engine.delta(id, "b", "c", "d")
        await until(lambda: is_durable(two, id))
        resume(one)
        await until(lambda: len(stream_of(one, id).log) == len(stream_of(two, id).log))
        one.engine.delta(id, "what is generated here is not heard any more")
        two.engine.finish(id)
        events = parse(await response.read())
    assert text(events) == "abcd"
    assert await read(two, f"/v1/streams/{id}") == (200, events)
    assert one.engine.cancelled == [id]
    assert one.rill.admission.n_tickets == two.rill.admission.n_tickets == 0
    assert await one.metric("llm_streams_fenced_total") == 1


async def test_a_paused_owner_delivers_only_what_is_logged(serve: Serve, redis: RedisServer) -> None:
    """After a pause longer than its leases it gets text that its own engine generated meanwhile: its readers get the
    new owner's text instead, and are not even disconnected."""
    one, two, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        await stand_still(one)
        await two.engine.submission()
        one.engine.delta(id, "wrong")
        two.engine.accept(id)
        two.engine.delta(id, "right")
        two.engine.finish(id)
        await until(lambda: is_durable(two, id))
        wake(one)
        assert text(parse(await response.read())) == "aright"
    assert one.engine.cancelled == [id]


async def test_a_paused_owners_end_is_not_delivered(serve: Serve, redis: RedisServer) -> None:
    """If it gets the end, too, its readers are disconnected, and find the logged end at any replica."""
    one, two, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        await stand_still(one)
        await two.engine.submission()
        one.engine.delta(id, "wrong")
        one.engine.finish(id)
        two.engine.accept(id)
        two.engine.delta(id, "right")
        two.engine.finish(id)
        await until(lambda: is_durable(two, id))
        wake(one)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    for service in (one, two):
        assert text((await read(service, f"/v1/streams/{id}"))[1]) == "aright"


async def test_a_paused_owners_non_streaming_response(serve: Serve, redis: RedisServer) -> None:
    """It has all of the new owner's text, and nothing that was generated here before."""
    one, two = await pair(serve, redis)
    body = CHAT | {"stream": False}
    asking = asyncio.create_task(one.client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "k"}))
    id = (await one.engine.submission()).id
    one.engine.accept(id)
    one.engine.delta(id, "a")
    await until(lambda: replication(one).writer.copies[id].has_record)
    await stand_still(one)
    await two.engine.submission()
    one.engine.delta(id, "wrong")
    two.engine.accept(id)
    two.engine.delta(id, "a", "right")
    two.engine.finish(id)
    await until(lambda: not stream_of(two, id).open and is_durable(two, id))
    wake(one)
    async with await asking as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "aright"


async def test_an_owner_holds_its_streams_as_long_as_its_lease(serve: Serve, redis: RedisServer) -> None:
    """From the request to the store on, and no longer; also if that is not answered: then no replica adopts."""
    one, *_ = await pair_and_stream(serve, redis)
    leases, writer = replication(one).leases, replication(one).writer
    now = asyncio.get_running_loop().time
    await stand_still(one)
    asked = now()
    await leases.turn()
    assert asked + LEASE_S <= writer.held_until <= now() + LEASE_S
    before = writer.held_until
    redis.stop()
    with pytest.raises(StoreDown):
        await leases.turn()
    assert writer.held_until == before
    resume(one)
    await until(lambda: leases._failed_at > asked + LEASE_S)
    assert writer.held_until > leases._failed_at


async def test_a_stale_owner_with_another_text(serve: Serve, redis: RedisServer) -> None:
    """Its readers are disconnected, and reconnect to the valid log, which has none of their text."""
    one, two, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        await suspend(one)
        await two.engine.submission()
        one.engine.delta(id, "wrong")
        raw = b""
        while b"wrong" not in raw:
            raw += await response.content.readany()
        two.engine.accept(id)
        two.engine.delta(id, "right")
        await until(lambda: is_durable(two, id))
        resume(one)
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    for service in (one, two):
        status, (failure,) = await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": parse(raw)[-1].id})
        assert (status, failure.json()["error"]["code"]) == (200, "log_gap")
        assert await read(service, f"/v1/streams/{id}", **{"Last-Event-ID": failure.id}) == (204, [])


@pytest.mark.parametrize(("words", "ends"), [(("b", "c"), "done"), (("b", "x"), "failure")])
async def test_beyond_the_log(serve: Serve, redis: RedisServer, words: tuple[str, ...], ends: str) -> None:
    """A reader has events that died with their replica: if the same are generated again it continues, else it fails."""
    one, two, id = await pair_and_stream(serve, redis)
    await suspend(one)
    one.engine.delta(id, "b", "c")
    has = await first_events(one, id, len(stream_of(one, id).log))
    await kill(one)
    await two.engine.submission()
    await check_beyond(two, id, has, words, ends)


@pytest.mark.parametrize("how", ["paused", "killed", "full"])
async def test_redis_fails(serve: Serve, redis: RedisServer, how: str) -> None:
    """Live streams continue from memory, are not durable, and are logged later with the same ids; none is adopted."""
    one, two, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        fail: dict[str, Callable[[], object]] = {"paused": redis.pause, "killed": redis.stop}
        fail.get(how, lambda: redis.ask(*FULL))()
        one.engine.delta(id, *"bcdef")
        raw = b""
        async with asyncio.timeout(PATIENCE_S):
            while b'"f"' not in raw:
                raw += await response.content.readany()
        assert (await receipt(one, id))["durable"] is False
        assert await one.metric("llm_streams_not_durable") == 1
        mend: dict[str, Callable[[], object]] = {"paused": redis.resume, "killed": redis.start}
        mend.get(how, lambda: redis.ask(*NOT_FULL))()
        await until(lambda: is_durable(one, id))
        assert (await receipt(one, id))["durable"] is True
        one.engine.delta(id, "g")
        one.engine.finish(id)
        raw += await response.read()
    assert text(parse(raw)) == "abcdefg"
    await until(lambda: not replication(one).writer.copies)
    assert await read(two, f"/v1/streams/{id}") == (200, parse(raw))
    assert two.engine.submitted == []


async def test_redis_loses_all_data(serve: Serve, redis: RedisServer) -> None:
    """Live streams are written again, under the same ids."""
    one, two = await pair(serve, redis)
    id = await begun(one, "a", "b")
    await until(lambda: is_durable(one, id))
    redis.ask("FLUSHALL")
    await until(lambda: b"rill:" + id.encode() in redis.ask("KEYS", "*"))
    one.engine.delta(id, "c")
    one.engine.finish(id)
    await until(lambda: not replication(one).writer.copies)
    assert await read(two, f"/v1/streams/{id}") == await read(one, f"/v1/streams/{id}")


async def test_while_redis_is_down_other_replicas_say_retry(serve: Serve, redis: RedisServer) -> None:
    """It is unknown whether the stream exists: 503, and for an EventSource an empty 200; never `stream_lost`."""
    one, two = await pair(serve, redis)
    id = await begun(one, "a")
    redis.stop()
    async with two.client.get(f"/v1/streams/{id}") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")
    for headers in ({"Accept": "text/event-stream"}, {"Last-Event-ID": f"{id}.0.00000000"}):
        async with two.client.get(f"/v1/streams/{id}", headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"retry: 2000\n")


async def test_a_stream_that_redis_lost_may_return(serve: Serve, redis: RedisServer) -> None:
    """When Redis comes back without a live stream, other replicas tell its reader to retry, not that it is lost: its
    owner, which writes it again, may be slower. A stream that is still unknown a lease later is lost."""
    one, two = await pair(serve, redis)
    replication(two).leases._lease_s = 3.0  # long enough for the test's request
    id = await begun(one, "a")
    await until(lambda: is_durable(one, id))
    last = (await first_events(one, id, 2))[1].id
    await suspend(one)
    redis.stop()
    await until(lambda: not replication(two).leases.store_is_steady)
    redis.start()
    redis.ask("FLUSHALL")
    assert await read(two, "/stream", **{"Last-Event-ID": last}) == (200, [])
    resume(one)
    await until(lambda: is_durable(one, id))
    await until(lambda: redis.ask("EXISTS", f"rill:{id}:record") == b":1\r\n")
    assert [event.json() for event in await first_events(two, id, 1, **{"Last-Event-ID": last})] == [{"text": "a"}]
    await until(lambda: replication(two).leases.store_is_steady)
    _, (event,) = await read(two, "/stream", **{"Last-Event-ID": f"{'0' * 32}.0.00000000"})
    assert event.json()["error"]["code"] == "stream_lost"


async def test_another_model_never_adopts(serve: Serve, redis: RedisServer) -> None:
    """A replica with another model file reads the stream, does not adopt it, and ends it if no other replica has."""
    one = await serve(redis_url=redis.url, by_hand=True, lease_s=LEASE_S)
    two = await serve(redis_url=redis.url, by_hand=True, lease_s=LEASE_S, digest="another", resume_grace_s=2 * LEASE_S)
    id = await begun(one, "a")
    await until(lambda: is_durable(one, id))
    async with two.client.get(f"/v1/streams/{id}") as response:
        await kill(one)
        events = parse(await response.read())
    assert text(events) == "a"
    assert (events[-1].name, events[-1].json()["error"]["code"]) == ("failure", "engine_crash")
    assert two.engine.submitted == []


async def test_prompts_need_not_be_stored(serve: Serve, redis: RedisServer) -> None:
    """If disabled, nothing of the request is in Redis; the stream can be read elsewhere, but ends with its replica."""
    one, two = await pair(serve, redis, store_prompts=False, resume_grace_s=LEASE_S)
    secret = "whisper-4821"
    id = await begun(one, "a", body={"prompt": secret, "stop": [secret]})
    await until(lambda: is_durable(one, id))
    assert len(redis.ask("GET", f"rill:{id}:record")) > 100
    assert secret.encode() not in redis.ask("GET", f"rill:{id}:record")
    async with two.client.get(f"/v1/streams/{id}") as response:
        await kill(one)
        events = parse(await response.read())
    assert (text(events), events[-1].name) == ("a", "failure")
    assert two.engine.submitted == []


async def test_an_entry_of_another_stream(serve: Serve, redis: RedisServer) -> None:
    """Each entry that is read from a log is checked for its stream: a foreign one is not forwarded."""
    one, two = await pair(serve, redis)
    id, other = await begun(one, "a"), await begun(one, "secret")
    await until(lambda: is_durable(one, id) and is_durable(one, other))
    assert (await read_some(two, id))[-1].json() == {"text": "a"}
    redis.ask("RENAME", f"rill:{other}", f"rill:{id}")
    three = await serve(redis_url=redis.url)
    async with three.client.get(f"/v1/streams/{id}") as response:
        assert b"secret" not in await response.read()


async def test_cancel_and_receipt_from_elsewhere(serve: Serve, redis: RedisServer) -> None:
    """DELETE at any replica ends the stream at its owner; the receipt is the same, but for what only the owner
    knows."""
    one, two, id = await pair_and_stream(serve, redis)
    assert (await receipt(two, id))["state"] == "answering"
    async with two.client.delete(f"/v1/streams/{id}") as response:
        assert response.status == 204
    await until(lambda: one.engine.cancelled == [id])
    await until(lambda: not stream_of(two, id).open)
    ours, theirs = await receipt(one, id), await receipt(two, id)
    assert ours["finish_reason"] == "cancelled"
    assert (ours["exact"], theirs["exact"]) == (False, None)
    own = {"tokens": None, "exact": None}
    assert {**ours, **own} == {**theirs, **own}


async def test_a_key_at_two_replicas(serve: Serve, redis: RedisServer) -> None:
    """The same request with the same key generates once, at any replicas, also concurrently; another request gets
    409."""
    one, two = await serve(redis_url=redis.url), await serve(redis_url=redis.url)
    for path, body in [*ROUTES, ("/v1/chat/completions", CHAT)]:
        n = len(one.engine.submitted) + len(two.engine.submitted)
        key = {"Idempotency-Key": f"k{n}"}
        asked = [service.client.post(path, json=body, headers=key) for service in (one, two, one, two)]
        answers = [(r.headers["X-Stream-Id"], await r.read()) for r in await asyncio.gather(*asked)]
        assert len(set(answers)) == 1
        assert len(one.engine.submitted) + len(two.engine.submitted) == n + 1
        for service in (one, two):
            async with service.client.post(path, json={**body, "seed": 5}, headers=key) as response:
                assert response.status == 409


async def test_a_non_streaming_request_is_repeated_elsewhere(serve: Serve, redis: RedisServer) -> None:
    """Its replica died with the connection: repeated elsewhere, it waits for the same stream, generated again there."""
    one, two = await pair(serve, redis)
    key = {"Idempotency-Key": "k"}
    asking = asyncio.create_task(one.client.post("/v1/chat/completions", json=CHAT, headers=key))
    id = (await one.engine.submission()).id
    one.engine.accept(id)
    one.engine.delta(id, "a")
    await until(lambda: replication(one).writer.copies[id].has_record)
    await kill(one)
    asking.cancel()
    again = asyncio.create_task(two.client.post("/v1/chat/completions", json=CHAT, headers=key))
    adopted = await two.engine.submission()
    assert adopted == replace(one.engine.submitted[0], is_owed=True)
    two.engine.accept(id)
    two.engine.delta(id, "a", "b")
    two.engine.finish(id, n_generated=2)
    response = await again
    assert (await response.json())["choices"][0]["message"]["content"] == "ab"
    assert response.headers["X-Stream-Id"] == id


async def test_a_reader_at_another_replica_keeps_it_alive(serve: Serve, redis: RedisServer) -> None:
    """A stream without a reader at its owner is not cancelled while another replica has one."""
    one, two, id = await pair_and_stream(serve, redis, resume_grace_s=2 * LEASE_S)
    async with two.client.get(f"/v1/streams/{id}"):
        before = one.rill.streams.table._deadlines[id]
        await until(lambda: one.rill.streams.table._deadlines[id] > before + 2 * LEASE_S)
    await until(lambda: one.engine.cancelled == [id])


async def test_a_refused_prompt_leaves_nothing(serve: Serve, redis: RedisServer) -> None:
    """No client was told of the stream: it and its key are deleted."""
    one, _ = await pair(serve, redis)
    asking = asyncio.create_task(one.client.post("/stream", json=PROMPT, headers={"Idempotency-Key": "k"}))
    id = (await one.engine.submission()).id
    await until(lambda: replication(one).writer.copies[id].has_record)
    one.engine.say(Rejected(id, "context_length_exceeded", "too long"))
    assert (await asking).status == 400
    await until(lambda: b"rill:" not in redis.ask("KEYS", "*"))


async def test_everything_expires(serve: Serve, redis: RedisServer) -> None:
    """Each Redis key of a stream has a time to live: stream_ttl_s from its end on, a minute more while it is live."""
    one, _ = await pair(serve, redis, stream_ttl_s=100)
    id = await begun(one, "a")
    await until(lambda: is_durable(one, id))
    for key in (f"rill:{id}", f"rill:{id}:record"):
        assert 150 < int(redis.ask("TTL", key)[1:]) <= 160
    one.engine.finish(id)
    await until(lambda: not replication(one).writer.copies)
    for key in (f"rill:{id}", f"rill:{id}:record"):
        assert 90 < int(redis.ask("TTL", key)[1:]) <= 100


async def test_a_drain_hands_over(serve: Serve, redis: RedisServer) -> None:
    """At its end resumable streams go to another replica at once, without an end; the others fail."""
    one, two = await pair(serve, redis, drain_s=0, lease_s=60)
    replication(two).leases._lease_s = LEASE_S
    id = await begun(one, "a")
    asking = asyncio.create_task(one.client.post("/stream", json=PROMPT))
    plain = (await one.engine.submission(2)).id
    one.engine.accept(plain)
    other = await asking
    await until(lambda: is_durable(one, id) and is_durable(one, plain))
    async with one.client.get(f"/v1/streams/{id}") as response:
        raw = b""
        while b'"a"' not in raw:
            raw += await response.content.readany()
        replication(one).writer._go_ahead()  # Redis was slow a moment ago, which is no reason to fail
        await one.rill.drain(asyncio.Event())
        with pytest.raises(aiohttp.ClientError):
            raw += await response.read()
    assert [event.name for event in parse(raw)][-1] == "message"
    assert b"shutting_down" in await other.read()
    assert (await two.engine.submission()).delivered == [7]
    two.engine.accept(id)
    two.engine.delta(id, "b")
    two.engine.finish(id)
    status, rest = await read(two, "/stream", **{"Last-Event-ID": parse(raw)[-1].id})
    assert (status, text(parse(raw) + rest), rest[-1].name) == (200, "ab", "done")


async def test_an_unreadable_record(serve: Serve, redis: RedisServer) -> None:
    """As a newer version may write it: the stream is unknown here, and delays no other."""
    one, two = await pair(serve, redis)
    strange, id = await begun(one, "a"), await begun(one, "a")
    await until(lambda: is_durable(one, strange) and is_durable(one, id))
    redis.ask("SET", f"rill:{strange}:record", '{"from":"the future"}')
    await until(lambda: replication(two).leases.store_is_steady)
    async with two.client.get(f"/v1/streams/{strange}") as response:
        assert response.status == 404
    await kill(one)
    assert (await two.engine.submission()).id == id


async def test_a_bug_in_the_writer_stops_no_reader(serve: Serve, redis: RedisServer) -> None:
    """Whatever fails in it, readers get their events."""
    one, _, id = await pair_and_stream(serve, redis)
    async with one.client.get(f"/v1/streams/{id}") as response:
        stream_of(one, id).log.weights[-1:] = []  # as a bug of ours would
        one.engine.delta(id, "b")
        one.engine.finish(id)
        assert text(parse(await response.read())) == "ab"


async def test_a_lost_lease_is_taken_again(serve: Serve, redis: RedisServer) -> None:
    """An owner with a log, but no lease left in Redis, is still the owner, and its stream can be adopted later."""
    one, two, id = await pair_and_stream(serve, redis)
    redis.ask("DEL", "rill:live")
    await until(lambda: id.encode() in redis.ask("ZRANGE", "rill:live", "0", "-1"))
    await kill(one)
    assert (await two.engine.submission()).id == id


async def test_the_loser_of_an_adoption_leaves_the_stream_alone(serve: Serve, redis: RedisServer) -> None:
    """Two replicas claim a dead one's stream: the winner keeps its lease."""
    one, two, id = await pair_and_stream(serve, redis)
    await suspend(one)
    await suspend(two)
    assert await replication(two)._store.claim(id, 2)
    await replication(two).leases._inherit(id, 1, 0.0)
    assert f"{id}:2".encode() in redis.ask("ZRANGE", "rill:live", "0", "-1")
    assert two.rill.admission.n_tickets == 0
    assert two.engine.submitted == []


async def test_an_expired_stream_is_gone_everywhere(serve: Serve, redis: RedisServer) -> None:
    """410 even at a replica that never knew it; an id that never existed is 404."""
    one, two = await pair(serve, redis, stream_ttl_s=1)
    id = await begun(one, "a")
    one.engine.finish(id)
    await until(lambda: redis.ask("EXISTS", f"rill:{id}:gone") == b":1\r\n")
    await until(lambda: redis.ask("EXISTS", f"rill:{id}") == b":0\r\n")
    await until(lambda: replication(two).leases.store_is_steady)
    assert (await two.client.get(f"/v1/streams/{id}")).status == 410
    assert (await two.client.get(f"/v1/streams/{'0' * 32}")).status == 404


async def test_a_lost_log_is_written_from_its_start(serve: Serve, redis: RedisServer) -> None:
    """Redis loses all data unnoticed: the next event is not the only one."""
    one, two, id = await pair_and_stream(serve, redis)
    redis.ask("FLUSHALL")
    one.engine.delta(id, "b")
    await until(lambda: redis.ask("XLEN", f"rill:{id}") == b":%d\r\n" % (len(stream_of(one, id).log) + 1))
    await until(lambda: is_durable(one, id))
    assert text(await read_some(two, id)) == "ab"


async def test_a_cancellation_waits_for_the_next_owner(serve: Serve, redis: RedisServer) -> None:
    """Between the death of one owner and the next one's adoption no replica can end it: the next owner does."""
    one, two, id = await pair_and_stream(serve, redis)
    await kill(one)
    assert (await two.client.delete(f"/v1/streams/{id}")).status == 204
    await until(lambda: (found := two.rill.streams.find(id)) is not None and not found.open)
    assert stream_of(two, id).outcome == "cancelled"


async def test_a_key_lives_as_long_as_its_stream(serve: Serve, redis: RedisServer) -> None:
    """However long it runs; then as long as it can be read."""
    one, _ = await pair(serve, redis, stream_ttl_s=100)
    asking = asyncio.create_task(one.client.post("/stream", json={**PROMPT, "key": "k"}))
    id = (await one.engine.submission()).id
    one.engine.accept(id)
    (await asking).close()
    (name,) = (word for word in redis.ask("KEYS", "rill:key:*").split() if word.startswith(b"rill"))
    assert int(redis.ask("TTL", name.decode())[1:]) > 3600
    one.engine.finish(id)
    await until(lambda: int(redis.ask("TTL", name.decode())[1:]) <= 100)
