from __future__ import annotations

import asyncio
import socket
import zlib
from typing import Any

import aiohttp
import pytest

from service.api.server import SEND_BUFFER_BYTES
from service.protocol.frames import Rejected, Step
from service.protocol.said import Said
from tests.conftest import Serve, Service
from tests.events import Event, numbers, parse, text
from tests.fakes import STORY, Clock, turns
from tests.patience import PATIENCE_S

PROMPT = {"prompt": "Tell me a story"}


async def read(service: Service, path: str = "/stream", **options: Any) -> tuple[aiohttp.ClientResponse, list[Event]]:
    """A whole GET: the response and its events."""
    async with service.client.get(path, **options) as response:
        return response, parse(await response.read())


async def read_until(response: aiohttp.ClientResponse, what: bytes) -> bytes:
    """The bytes of an open stream up to and including `what`."""
    got = b""
    while what not in got:
        chunk = await response.content.readany()
        assert chunk, got
        got += chunk
    return got


async def opened(service: Service, n: int = 1) -> tuple[aiohttp.ClientResponse, str]:
    """An open GET, the n-th, with its prompt accepted by the hand-driven engine; and its stream's id."""
    opening = asyncio.create_task(service.client.get("/stream", params=PROMPT))
    id = (await service.engine.submission(n)).id
    service.engine.accept(id)
    return await opening, id


async def test_a_stream_from_thinking_to_done(serve: Serve) -> None:
    """One GET yields thinking, its progress, answering, the text and one done, with consecutive ids."""
    service = await serve()
    response, events = await read(service, params=PROMPT)
    id = response.headers["X-Stream-Id"]
    names = [event.json().get("phase", event.name) if event.name == "status" else event.name for event in events]
    assert ["thinking", "thinking", "answering", *["message"] * len(STORY), "done"] == names
    assert numbers(events, id) == list(range(len(events)))
    assert "".join(STORY) == text(events)
    assert events[-1].json()["finish_reason"] == "stop"


async def test_the_headers_keep_proxies_from_holding_anything_back(serve: Serve) -> None:
    """Content type, no-store, no buffering, and the two ids."""
    response, _ = await read(await serve(), params=PROMPT)
    assert {name: response.headers[name] for name in ("Content-Type", "Cache-Control", "X-Accel-Buffering")} == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-store, no-transform",
        "X-Accel-Buffering": "no",
    }
    assert len(response.headers["X-Stream-Id"]) == 32 and response.headers["X-Request-ID"]


async def test_retry_is_in_the_first_block_and_differs(serve: Serve) -> None:
    """EventSources that lost one server do not all reconnect at the same moment."""
    service = await serve()
    retries = []
    for _ in range(5):
        _, events = await read(service, params=PROMPT)
        assert [None] * (len(events) - 1) == [event.retry for event in events[1:]]
        retries.append(events[0].retry)
    assert len(set(retries)) > 1 and all(retry is not None and 1500 <= retry <= 2500 for retry in retries)


async def test_post_takes_the_same_by_json(serve: Serve) -> None:
    """A prompt with a system text and sampling parameters, or a list of messages."""
    service = await serve()
    body = {"prompt": "hi", "system": "be brief", "temperature": 0, "seed": 5, "stop": "x", "max_tokens": 9}
    async with service.client.post("/stream", json=body) as response:
        assert "".join(STORY) == text(parse(await response.read()))
    (submit,) = service.engine.submitted
    assert submit.messages == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert (submit.sampling.temperature, submit.sampling.seed, submit.stop, submit.max_tokens) == (0, 5, ["x"], 9)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    async with service.client.post("/stream", json={"messages": messages}) as response:
        await response.read()
    assert messages == service.engine.submitted[1].messages


async def test_the_query_takes_the_same_parameters(serve: Serve) -> None:
    """They have the same names; strings become numbers."""
    service = await serve()
    query = [("prompt", "hi"), ("temperature", "0.5"), ("top_k", "7"), ("seed", "9"), ("stop", "a"), ("stop", "b")]
    await read(service, params=[*query, ("ignore_eos", "true"), ("repetition_penalty", "1.1")])
    (submit,) = service.engine.submitted
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed, sampling.repeat_penalty) == (0.5, 7, 9, 1.1)
    assert (submit.stop, submit.ignore_eos) == (["a", "b"], True)


async def test_the_first_event_is_sent_at_admission(serve: Serve) -> None:
    """Before any prefill the reader knows the id with which it can reconnect."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    (event,) = parse(await read_until(response, b"\n\n"))
    assert (f"{id}.0.00000000", "status") == (event.id, event.name)


async def test_a_waiting_stream_reports_its_position(serve: Serve) -> None:
    """Queued 1st, then thinking when the engine admits it."""
    service = await serve(by_hand=True, n_seq=1)
    running, _ = await opened(service)
    waiting, id = await opened(service, 2)
    (event,) = parse(await read_until(waiting, b"\n\n"))
    assert (event.json()["phase"], event.json()["position"]) == ("queued", 1)
    service.engine.say(Step(queued=[(id, 1)]))
    service.engine.say(Step(prefill=[(id, 1, 4)]))
    events = parse(await read_until(waiting, b'"n_prompt":4}\n\n'))
    assert events[-1].json()["progress"] == 0.25
    running.close()
    waiting.close()


async def test_a_prompt_that_the_engine_refuses_is_a_400(serve: Serve) -> None:
    """It is sent before any header, with the counts, in OpenAI's format."""
    service = await serve(by_hand=True)
    opening = asyncio.create_task(service.client.get("/stream", params=PROMPT))
    id = (await service.engine.submission()).id
    service.engine.say(Rejected(id, "context_length_exceeded", "The prompt has 2000 tokens; 1024 fit."))
    async with await opening as response:
        assert response.status == 400
        assert await response.json() == {
            "error": {
                "message": "The prompt has 2000 tokens; 1024 fit.",
                "type": "invalid_request_error",
                "param": "prompt",
                "code": "context_length_exceeded",
            }
        }
    assert await service.metric('llm_requests_total{outcome="invalid",route="/stream"}') == 1


async def test_last_event_id_continues_at_the_next(serve: Serve) -> None:
    """After every event, by header or query, exactly the remaining events follow: nothing lost, nothing repeated."""
    service = await serve()
    _, events = await read(service, params=PROMPT)
    for n, event in enumerate(events[:-1]):
        by_header: dict[str, Any] = {"headers": {"Last-Event-ID": event.id}}
        by_query: dict[str, Any] = {"params": {**PROMPT, "last_event_id": event.id}}
        for options in (by_header, by_query):
            _, rest = await read(service, **options)
            assert events[n + 1 :] == rest
    assert len(service.engine.submitted) == 1


async def test_the_header_takes_precedence_over_the_query(serve: Serve) -> None:
    """An EventSource keeps its first address and sends its progress in the header."""
    service = await serve()
    _, events = await read(service, params=PROMPT)
    query = {**PROMPT, "last_event_id": events[2].id}
    _, rest = await read(service, params=query, headers={"Last-Event-ID": events[5].id})
    assert events[6:] == rest


async def test_a_finished_stream_that_was_read_is_204(serve: Serve) -> None:
    """It stops an EventSource instead of generating again."""
    service = await serve()
    _, events = await read(service, params=PROMPT)
    for path in ("/stream", f"/v1/streams/{events[0].id.partition('.')[0]}"):
        response, _ = await read(service, path, headers={"Last-Event-ID": events[-1].id})
        assert response.status == 204
    assert len(service.engine.submitted) == 1
    assert await service.metric('llm_stream_attaches_total{outcome="read"}') == 2


@pytest.mark.parametrize(
    "last",
    [
        "0" * 32 + ".5.00000000",
        "0" * 32 + ".5",
        "nonsense",
        "0" * 32,
        "a\tb",
        "0" * 32 + ".-1.00000000",
        "é",
        "x" * 3000,
        "0" * 32 + ".99999999999999.00000000",
    ],
)
async def test_an_unknown_event_id_never_generates(serve: Serve, last: str) -> None:
    """It gets one failure, stream_lost, with an id for which the next reconnection is answered 204."""
    service = await serve()
    response, (event,) = await read(service, params={**PROMPT, "last_event_id": last})
    assert (response.status, event.name, event.json()["error"]["code"]) == (200, "failure", "stream_lost")
    response, _ = await read(service, params=PROMPT, headers={"Last-Event-ID": event.id})
    assert response.status == 204
    assert service.engine.submitted == []


async def test_an_event_id_beyond_the_log_is_lost(serve: Serve) -> None:
    """An event that was never sent can't have been read."""
    service = await serve()
    _, events = await read(service, params=PROMPT)
    id, n, checksum = events[-1].id.split(".")
    _, (event,) = await read(service, headers={"Last-Event-ID": f"{id}.{int(n) + 1}.{checksum}"})
    assert event.json()["error"]["code"] == "stream_lost"


async def test_an_event_id_of_other_text_is_lost(serve: Serve) -> None:
    """An event id has the checksum of the text up to it: a reader of other text can't continue here."""
    service = await serve()
    _, events = await read(service, params=PROMPT)
    said = ""
    for event in events:
        said += event.json()["text"] if event.name == "message" else ""
        assert int(event.id.rpartition(".")[2], 16) == zlib.crc32(said.encode())
    head, _, checksum = events[5].id.rpartition(".")
    _, (event,) = await read(service, headers={"Last-Event-ID": f"{head}.{int(checksum, 16) ^ 1:08x}"})
    assert event.json()["error"]["code"] == "stream_lost"


async def test_an_expired_stream_is_lost(serve: Serve) -> None:
    """After its time to live a finished stream is unknown, and is not generated again."""
    clock = Clock()
    service = await serve(clock=clock, stream_ttl_s=300)
    _, events = await read(service, params=PROMPT)
    clock.advance(300)
    service.rill.streams.tick()
    _, (event,) = await read(service, params=PROMPT, headers={"Last-Event-ID": events[0].id})
    assert event.json()["error"]["code"] == "stream_lost"
    assert len(service.engine.submitted) == 1


async def test_a_repeated_key_attaches(serve: Serve) -> None:
    """The same key and prompt attach to the same stream from its start, running or finished, by GET or POST."""
    service = await serve()
    query = {**PROMPT, "key": "5f0c9e4e-7b0e-4b53-8f65-6a0a8ac7d9d0"}
    _, first = await read(service, params=query)
    _, second = await read(service, params=query)
    assert first == second
    async with service.client.post("/stream", json=query) as response:
        assert first == parse(await response.read())
    assert len(service.engine.submitted) == 1


async def test_a_key_for_another_prompt_is_a_409(serve: Serve) -> None:
    """A key never returns another prompt's text."""
    service = await serve()
    await read(service, params={**PROMPT, "key": "k"})
    async with service.client.get("/stream", params={"prompt": "another", "key": "k"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "key_reused")


async def test_several_readers_of_one_stream(serve: Serve) -> None:
    """A late reader gets everything from the start, then the same events as the others."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    service.engine.delta(id, "a", "b")
    late = await service.client.get(f"/v1/streams/{id}")
    service.engine.delta(id, "c")
    service.engine.finish(id)
    bodies = [await response.read(), await late.read()]
    assert bodies[0] == bodies[1] and text(parse(bodies[0])) == "abc"


async def test_a_resumable_stream_survives_its_reader(serve: Serve) -> None:
    """A GET's stream keeps running without a reader, which can continue where it stopped."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    service.engine.delta(id, "a")
    last = parse(await read_until(response, b'"a"}\n\n'))[-1].id
    response.close()
    await turns(lambda: service.rill.streams.n_readers == 0)
    assert service.engine.cancelled == []
    service.engine.delta(id, "b")
    service.engine.finish(id)
    _, events = await read(service, headers={"Last-Event-ID": last})
    assert text(events) == "b"


async def test_the_resume_grace_ends(serve: Serve) -> None:
    """A stream without a returning reader is cancelled and counted as client_left."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, resume_grace_s=30)
    response, id = await opened(service)
    response.close()
    await turns(lambda: service.rill.streams.n_readers == 0)
    clock.advance(30)
    await turns(lambda: service.engine.cancelled)
    assert [id] == service.engine.cancelled
    assert await service.metric('llm_requests_total{outcome="client_left",route="/stream"}') == 1


@pytest.mark.parametrize("stage", ["submitted", "accepted", "answering"])
async def test_a_plain_post_ends_with_its_client(serve: Serve, stage: str) -> None:
    """Whatever its handler waits for, a leaving client is noticed and its sequence freed."""
    service = await serve(by_hand=True)
    opening = asyncio.create_task(service.client.post("/stream", json=PROMPT))
    id = (await service.engine.submission()).id
    if stage == "submitted":
        opening.cancel()
    else:
        service.engine.accept(id)
        response = await opening
        if stage == "answering":
            service.engine.delta(id, "a")
            await read_until(response, b'"a"')
        response.close()
    await turns(lambda: service.engine.cancelled)
    assert [id] == service.engine.cancelled
    assert await service.metric('llm_requests_total{outcome="client_left",route="/stream"}') == 1
    assert service.rill.admission.n_tickets == 0


async def test_delete_cancels_and_informs_the_readers(serve: Serve) -> None:
    """The page's stop button: done, with finish_reason cancelled and the delivered counts."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    service.engine.delta(id, "a")
    async with service.client.delete(f"/v1/streams/{id}") as deleted:
        assert deleted.status == 204
    events = parse(await response.read())
    assert (
        events[-1].name,
        events[-1].json()["finish_reason"],
        events[-1].json()["usage"]["completion_tokens"],
    ) == ("done", "cancelled", 1)
    assert [id] == service.engine.cancelled
    async with service.client.delete(f"/v1/streams/{id}") as deleted:
        assert deleted.status == 204


async def test_deleting_nothing_is_a_404(serve: Serve) -> None:
    """It has OpenAI's error format."""
    service = await serve()
    async with service.client.delete("/v1/streams/" + "0" * 32) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "stream_not_found")


async def test_create_then_read(serve: Serve) -> None:
    """POST /v1/streams keeps a private prompt out of addresses: 201 with the address to read."""
    service = await serve()
    async with service.client.post("/v1/streams", json=PROMPT) as response:
        assert response.status == 201
        created = await response.json()
        assert created["url"] == response.headers["Location"] == f"/v1/streams/{created['id']}"
    _, events = await read(service, created["url"])
    assert "".join(STORY) == text(events)


async def test_reading_an_unknown_stream(serve: Serve) -> None:
    """A program gets 404; an EventSource, which can't read a 404's body, gets one failure."""
    service = await serve()
    path = "/v1/streams/" + "0" * 32
    async with service.client.get(path) as response:
        assert response.status == 404
    _, (event,) = await read(service, path, headers={"Accept": "text/event-stream"})
    assert event.json()["error"]["code"] == "stream_lost"


async def test_an_event_id_of_another_stream(serve: Serve) -> None:
    """The address names the stream; another stream's event id does not lead to that other stream."""
    service = await serve()
    _, first = await read(service, params=PROMPT)
    _, second = await read(service, params=PROMPT)
    path = f"/v1/streams/{first[0].id.partition('.')[0]}"
    _, (event,) = await read(service, path, headers={"Last-Event-ID": second[0].id})
    assert event.json()["error"]["code"] == "stream_lost"


async def test_the_queue_is_bounded(serve: Serve) -> None:
    """Beyond n_seq + max_waiting a request gets 429 before any stream header, with Retry-After in both forms."""
    service = await serve(by_hand=True, n_seq=1, max_waiting=1)
    tasks = [asyncio.create_task(service.client.post("/stream", json=PROMPT)) for _ in range(2)]
    await service.engine.submission(2)
    async with service.client.post("/stream", json=PROMPT) as response:
        body = await response.json()
        assert (
            response.status,
            body["error"]["code"],
            body["error"]["type"],
        ) == (429, "queue_full", "rate_limit_error")
        assert int(response.headers["Retry-After"]) == int(response.headers["retry-after-ms"]) // 1000 == 10
    assert len(service.engine.submitted) == 2
    assert await service.metric('llm_requests_total{outcome="queue_full",route="/stream"}') == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_waiting_too_long_is_a_failure(serve: Serve) -> None:
    """On an open stream the queue timeout is an event, and the engine is told to cancel."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, queue_timeout_s=60)
    response, id = await opened(service)
    clock.advance(60)
    events = parse(await response.read())
    assert (events[-1].name, events[-1].json()["error"]["code"]) == ("failure", "queue_timeout")
    assert [id] == service.engine.cancelled


async def test_a_stream_outlives_its_engine(serve: Serve) -> None:
    """The next engine gets the delivered tokens, and the readers get the rest with the following ids."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    service.engine.delta(id, "a", "b")
    service.engine.die()
    service.engine.load()
    again = await service.engine.submission(2)
    assert (again.id, again.delivered) == (id, [7, 7])
    service.engine.accept(id)
    service.engine.delta(id, "c")
    service.engine.finish(id)
    events = parse(await response.read())
    assert text(events) == "abc"
    assert numbers(events, id) == list(range(len(events)))
    assert events[-1].name == "done"


async def test_an_engine_that_stays_down_is_one_failure(serve: Serve) -> None:
    """Every open stream ends with it; new ones get 503 and Retry-After until the engine is back."""
    service = await serve(by_hand=True)
    response, id = await opened(service)
    service.engine.delta(id, "a")
    unaccepted = asyncio.create_task(service.client.get("/stream", params=PROMPT))
    await service.engine.submission(2)
    service.engine.die(stays_down=True)
    events = parse(await response.read())
    assert [event.name for event in events if event.name in ("done", "failure")] == ["failure"]
    assert events[-1].json()["error"]["code"] == "engine_crash"
    async with await unaccepted as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "engine_crash")
    async with service.client.get("/stream", params=PROMPT) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "not_ready")
        assert response.headers["Retry-After"]
    service.engine.load()
    service.engine.by_hand = False
    _, events = await read(service, params=PROMPT)
    assert "".join(STORY) == text(events)
    assert await service.metric('llm_requests_total{outcome="engine_crash",route="/stream"}') == 2


async def test_not_ready_is_sent_before_any_header(serve: Serve) -> None:
    """While the model loads a request gets 503 and Retry-After."""
    service = await serve(starts_ready=False)
    async with service.client.get("/stream", params=PROMPT) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "2")


async def test_heartbeats_between_events(serve: Serve) -> None:
    """Silence is filled with comments of one line feed, between complete events."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, heartbeat_s=15)
    response, id = await opened(service)
    raw = await read_until(response, b"\n\n")
    for word in ("a", "b"):
        clock.advance(15)
        raw += await read_until(response, b": hb\n")
        service.engine.delta(id, word)
        raw += await read_until(response, b"\n\n")
    service.engine.finish(id)
    raw += await response.read()
    assert raw.count(b"\n\n: hb\nid: ") == 2
    assert text(parse(raw)) == "ab"


async def test_pace_delays_only_its_own_reader(serve: Serve) -> None:
    """The log is complete while a paced reader still reads; another reader gets all of it."""
    service = await serve()
    slow = await service.client.get("/stream", params={**PROMPT, "pace": "0.01"})
    id = slow.headers["X-Stream-Id"]
    _, events = await read(service, f"/v1/streams/{id}")
    assert "".join(STORY) == text(events)
    raw = await read_until(slow, b'"Once"}\n\n')
    assert text(parse(raw)) == "Once"
    slow.close()


async def test_the_engine_knows_the_pace(serve: Serve) -> None:
    """It comes from the query or the body and is the rate at which tokens are needed. The request that starts the
    stream sets it."""
    service = await serve()
    await read(service, params={**PROMPT, "pace": "1e3"})
    for query, body in ({}, {"pace": 2e3}), ({"pace": "3e3"}, {"pace": 4e3}), ({}, {}):
        async with service.client.post("/stream", params=query, json={**PROMPT, **body}) as response:
            await response.read()
    async with service.client.post("/v1/streams", json={**PROMPT, "pace": 5e3}) as response:
        assert response.status == 201
    await read(service, f"/v1/streams/{service.engine.submitted[-1].id}", params={"pace": "6e3"})
    assert [submit.pace for submit in service.engine.submitted] == [1e3, 2e3, 3e3, None, 5e3]


@pytest.mark.parametrize("path", ["/stream", "/v1/streams/" + "0" * 32])
async def test_head_never_generates(serve: Serve, path: str) -> None:
    """405 with the allowed methods."""
    service = await serve()
    async with service.client.head(path, params=PROMPT) as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
    assert service.engine.submitted == []


async def stalled(service: Service, path: str) -> socket.socket:
    """A reader that takes only what its small buffer holds: by default the kernel makes room for megabytes."""
    loop, sock = asyncio.get_running_loop(), socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects; the kernel doubles it
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", int(service.url.rsplit(":", 1)[1])))
    await loop.sock_sendall(sock, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return sock


async def test_a_stalled_reader_is_dropped_and_delays_no_other(serve: Serve) -> None:
    """A reader that reads nothing blocks only its own write, until the timeout aborts it; other readers continue."""
    clock = Clock()
    service = await serve(by_hand=True, clock=clock, write_timeout_s=30)
    sock = await stalled(service, "/stream?prompt=x")
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    await turns(lambda: service.rill.streams.n_readers == 1)
    word = "x" * 10_000
    quick = asyncio.create_task(read(service, f"/v1/streams/{id}"))
    await turns(lambda: service.rill.streams.n_readers == 2)
    for _ in range(100):  # 1 MB: several times what both buffers and aiohttp's hold
        service.engine.delta(id, word)
        await asyncio.sleep(0)
    service.engine.finish(id)
    assert len([event for event in (await quick)[1] if event.name == "message"]) == 100
    await turns(lambda: service.rill.streams.n_readers == 1)
    clock.advance(30)
    await turns(lambda: service.rill.streams.n_readers == 0)
    sock.close()


async def test_stalled_readers_hold_little(serve: Serve) -> None:
    """Whatever their stream has sent, each of twenty readers that read nothing has less than 256 KiB waiting for it, in
    the process and in the kernel, and a reader that reads gets everything meanwhile."""
    service = await serve(by_hand=True, clock=Clock())  # none of them is dropped, however long this takes
    quick = asyncio.create_task(read(service, "/stream?prompt=x"))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    await turns(lambda: service.rill.streams.n_readers == 1)
    sockets = [await stalled(service, f"/v1/streams/{id}") for _ in range(20)]
    await turns(lambda: service.rill.streams.n_readers == 21)
    for _ in range(3000):
        service.engine.delta(id, "x" * 1000)
        await asyncio.sleep(0)
    service.engine.finish(id)
    assert len([event for event in (await quick)[1] if event.name == "message"]) == 3000
    await turns(lambda: service.rill.streams.n_readers == 20)
    assert service.runner.server is not None
    for connection in service.runner.server.connections:
        assert connection.transport is not None
        n_waiting = connection.transport.get_write_buffer_size()
        assert n_waiting + 2 * SEND_BUFFER_BYTES < 256 << 10
    for sock in sockets:
        sock.close()


async def test_streams_do_not_mix(serve: Serve) -> None:
    """64 streams at once with interleaved words: each reader gets its own."""
    service = await serve(by_hand=True, n_seq=64)
    tasks = [asyncio.create_task(read(service, params={"prompt": f"p{n}"})) for n in range(64)]
    await service.engine.submission(64)
    submits = list(service.engine.submitted)
    for submit in submits:
        service.engine.accept(submit.id)
    for turn in range(5):
        deltas: list[tuple[str, list[int], str | Said]] = [
            (s.id, [turn], f"{s.messages[0]['content']}:{turn} ") for s in submits if s.messages
        ]
        service.engine.say(Step(deltas=deltas, n_running=64, n_batch=64))
        await asyncio.sleep(0)
    for submit in submits:
        service.engine.finish(submit.id)
    texts = sorted(text(events) for _, events in await asyncio.gather(*tasks))
    assert sorted("".join(f"p{n}:{turn} " for turn in range(5)) for n in range(64)) == texts


async def test_cancelling_readers_at_every_await(serve: Serve) -> None:
    """Readers that leave after 0, 1, 2 … turns of the loop leave no ticket, reader or stream behind."""
    service = await serve(n_seq=64, resume_grace_s=0)
    for n_turns in range(60):
        task = asyncio.create_task(read(service, params=PROMPT))
        for _ in range(n_turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await turns(lambda: service.rill.streams.n_made == 0)
    await turns(lambda: service.rill.streams.n_readers == 0)
    assert (service.rill.admission.n_tickets, service.rill.admission.n_running) == (0, 0)


async def test_http_1_0_ends_a_body_by_closing(serve: Serve) -> None:
    """HTTP/1.0 has no chunks: the connection is closed at the end, whatever it asked for."""
    service = await serve()
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /stream?prompt=hi HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
    raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
    assert b"event: done" in raw and b"keep-alive" not in raw.lower().partition(b"\r\n\r\n")[0]
    writer.close()


async def test_no_proxy_may_transform_it(serve: Serve) -> None:
    """A proxy that compresses would hold events back until it has enough."""
    service = await serve()
    response, _ = await read(service, params=PROMPT)
    assert response.headers["Cache-Control"] == "no-store, no-transform"


async def test_an_unknown_expectation(serve: Serve) -> None:
    """It gets 417 in the common error format; 100-continue is answered."""
    service = await serve()
    for method, path in (("POST", "/stream"), ("GET", "/nowhere"), ("DELETE", "/stream"), ("PATCH", "/v1/models")):
        async with service.client.request(method, path, json=PROMPT, headers={"Expect": "something"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (417, "expectation_failed")
            assert response.headers["X-Request-ID"]
    assert service.engine.submitted == []
    async with service.client.post("/stream", json=PROMPT, expect100=True) as response:
        assert response.status == 200
