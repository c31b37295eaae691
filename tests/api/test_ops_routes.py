from __future__ import annotations

import asyncio
import logging

import pytest

from service import __version__
from service.streams.table import Role
from tests.conftest import Serve
from tests.events import parse, text
from tests.fakes import STORY

PROMPT = {"prompt": "hi"}


async def test_healthz_does_not_depend_on_the_engine(serve: Serve) -> None:
    """It is 200 while loading and after a crash."""
    service = await serve(starts_ready=False)
    for _ in range(2):
        async with service.client.get("/healthz") as response:
            assert response.status == 200
        service.engine.die()


async def test_readyz_gives_the_reason(serve: Serve) -> None:
    """Loading with its progress, ready, down with the reason, ready again, draining."""
    service = await serve(starts_ready=False)

    async def readiness() -> tuple[int, object]:
        async with service.client.get("/readyz") as response:
            return response.status, await response.json()

    service.engine.progress = 0.25
    assert await readiness() == (503, {"ready": False, "reason": "loading", "progress": 0.25})
    service.engine.load()
    assert await readiness() == (200, {"ready": True})
    service.engine.die()
    assert await readiness() == (503, {"ready": False, "reason": "engine_down", "message": "it died"})
    service.engine.load()
    assert (await readiness())[0] == 200
    await service.rill.drain(asyncio.Event())
    assert await readiness() == (503, {"ready": False, "reason": "draining"})


async def test_health_is_llama_servers(serve: Serve) -> None:
    """200 and ok, or 503 with an error body: tools that wait for llama-server poll it."""
    service = await serve(starts_ready=False)
    async with service.client.get("/health") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "not_ready")
    service.engine.load()
    async with service.client.get("/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_draining_refuses_new_and_finishes_running_streams(serve: Serve) -> None:
    """New requests get 503 and Retry-After; running streams may finish, which ends the drain."""
    service = await serve(by_hand=True, drain_s=30)
    running = asyncio.create_task(service.client.post("/stream", json=PROMPT))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    response = await running
    draining = asyncio.create_task(service.rill.drain(asyncio.Event()))
    await asyncio.sleep(0)
    async with service.client.post("/stream", json=PROMPT) as refused:
        assert (refused.status, (await refused.json())["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["Retry-After"]
    service.engine.finish(id)
    await draining
    assert b"event: done" in await response.read()


async def test_a_drain_is_announced_before_anything_is_refused(serve: Serve) -> None:
    """/readyz is 503 at once, so that a proxy uses another replica; until the proxy has noticed, new streams are
    served, also by an engine that restarted meanwhile. The hurry event ends that period."""
    service = await serve(drain_notice_s=3600)
    hurry = asyncio.Event()
    draining = asyncio.create_task(service.rill.drain(hurry))
    await asyncio.sleep(0)
    async with service.client.get("/readyz") as response:
        assert (response.status, (await response.json())["reason"]) == (503, "draining")
    service.engine.die()
    service.engine.load()
    async with service.client.post("/stream", json=PROMPT) as response:
        assert text(parse(await response.read())) == "".join(STORY)
    hurry.set()
    await draining
    async with service.client.post("/stream", json=PROMPT) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("hurry", [True, False])
async def test_streams_left_at_the_end_of_the_drain_fail(serve: Serve, hurry: bool) -> None:
    """A stream that can't finish in time gets one failure, shutting_down; never a false end."""
    service = await serve(by_hand=True, drain_s=60 if hurry else 0.05)
    running = asyncio.create_task(service.client.post("/stream", json=PROMPT))
    service.engine.accept((await service.engine.submission()).id)
    response = await running
    hurrying = asyncio.Event()
    if hurry:
        hurrying.set()
    await service.rill.drain(hurrying)
    raw = await response.read()
    assert raw.count(b"event: failure") == 1 and b"shutting_down" in raw and b"event: done" not in raw
    assert await service.metric('llm_requests_total{outcome="shutting_down",route="/stream"}') == 1


async def test_a_paced_reader_is_not_cut_off(serve: Serve) -> None:
    """Its stream is complete long before it is read: the drain waits for the reader, and at its end sends the rest at
    once."""
    service = await serve(drain_s=0.2)
    response = await service.client.get("/stream", params={**PROMPT, "pace": "0.01"})
    await response.content.readuntil(b'"Once"')
    await service.rill.drain(asyncio.Event())
    events = parse(b"data: {}" + await response.read())
    assert text(events[1:]) == "".join(STORY[1:])
    assert events[-1].name == "done"


async def test_an_engine_restart_does_not_end_a_drain(serve: Serve) -> None:
    """Draining is permanent."""
    service = await serve()
    await service.rill.drain(asyncio.Event())
    service.engine.die()
    service.engine.load()
    async with service.client.post("/stream", json=PROMPT) as response:
        assert response.status == 503


async def test_metrics_match_the_answers(serve: Serve) -> None:
    """Every request is counted once, under its outcome; token counts equal the reported usage; no user content is in
    the metrics."""
    service = await serve()
    prompt_tokens = completion_tokens = 0
    for n in range(5):
        body = {"messages": [{"role": "user", "content": f"secret {n}"}], "model": "secret"}
        async with service.client.post("/v1/chat/completions", json=body) as response:
            usage = (await response.json())["usage"]
            prompt_tokens += usage["prompt_tokens"]
            completion_tokens += usage["completion_tokens"]
    for _ in range(3):
        async with service.client.get("/stream", params={"prompt": "secret"}) as response:
            await response.read()
        prompt_tokens += 3
        completion_tokens += 6
    async with service.client.post("/stream", json={"prompt": 7}) as response:
        assert response.status == 400
    metric = service.metric
    assert await metric('llm_requests_total{outcome="stop",route="/v1/chat/completions"}') == 5
    assert await metric('llm_requests_total{outcome="stop",route="/stream"}') == 3
    assert await metric('llm_requests_total{outcome="invalid",route="/stream"}') == 1
    assert await metric('llm_tokens_total{direction="in"}') == prompt_tokens
    assert await metric('llm_tokens_total{direction="out"}') == completion_tokens
    assert await metric("llm_cached_tokens_total") == 8
    for name in ("time_to_first_token", "time_per_output_token"):
        assert await metric(f"gen_ai_server_{name}_seconds_count") == 8
    assert await metric('gen_ai_server_request_duration_seconds_count{route="/stream"}') == 3
    assert await metric("llm_queue_duration_seconds_sum") == 8 * 0.25
    assert await metric("llm_prefill_duration_seconds_sum") == 8 * 0.5
    assert await metric("llm_inter_token_latency_seconds_count") == 8 * 5
    assert await metric('llm_inter_token_latency_seconds_bucket{le="+Inf"}') == 8 * 5
    async with service.client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        assert "secret" not in await response.text()


async def test_metrics_describe_the_loaded_model(serve: Serve) -> None:
    """Model, build and offloaded layers are as the engine reported at its start; restarts are counted too."""
    service = await serve()
    assert await service.metric("llm_kv_cache_cells") == 4096
    assert await service.metric("llm_engine_layers") == 6
    assert await service.metric("llm_engine_layers_offloaded") == 0
    assert await service.metric("llm_engine_up") == 1
    assert await service.metric(f'llm_build_info{{llama_cpp="0.0.0",version="{__version__}"}}') == 1
    service.engine.die()
    assert await service.metric("llm_engine_up") == 0
    assert await service.metric("llm_engine_restarts_total") == 1


async def test_gauges_follow_the_streams(serve: Serve) -> None:
    """Streams, running, waiting and readers are current, also after the last step and a cancel."""
    service = await serve(by_hand=True)

    async def gauges() -> list[float]:
        return [await service.metric(f"llm_{name}") for name in ("streams", "waiting", "running", "readers")]

    responses = []
    for n in (1, 2):
        asking = asyncio.create_task(service.client.get("/stream", params=PROMPT))
        service.engine.accept((await service.engine.submission(n)).id)
        responses.append(await asking)
    first, second = (submit.id for submit in service.engine.submitted)
    assert await gauges() == [2, 2, 0, 2]
    service.engine.delta(first, "a")
    assert await gauges() == [2, 1, 1, 2]
    service.engine.finish(first)
    await responses[0].read()
    async with service.client.delete(f"/v1/streams/{second}"):
        await responses[1].read()
    assert await gauges() == [0, 0, 0, 0]


async def test_a_request_id_is_accepted_or_made(serve: Serve) -> None:
    """A valid id is kept; anything else is replaced, on every kind of answer."""
    service = await serve()
    async with service.client.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}) as response:
        assert response.headers["X-Request-ID"] == "abc-1.2_3"
    for bad in ("two words", "x" * 129, "é", '"'):
        async with service.client.get("/nothing", headers={"X-Request-ID": bad}) as response:
            assert len(response.headers["X-Request-ID"]) == 32


async def test_one_log_line_per_request(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """It has the request id, route template, outcome, counts and durations; of the stream's id only the beginning."""
    caplog.set_level(logging.INFO)
    service = await serve()
    async with service.client.get("/stream", params=PROMPT, headers={"X-Request-ID": "r1"}) as response:
        id = response.headers["X-Stream-Id"]
        await response.read()
    async with service.client.get("/v1/streams/" + "0" * 32, headers={"X-Request-ID": "r2"}) as response:
        assert response.status == 404
    lines = {r.__dict__["request"]: r.__dict__ for r in caplog.records if r.name == "service.requests"}
    first, second = lines["r1"], lines["r2"]
    assert (first["method"], first["route"], first["status"], first["outcome"]) == ("GET", "/stream", 200, "stop")
    assert (first["stream"], first["prompt_tokens"], first["completion_tokens"]) == (id[:8], 3, 6)
    assert (first["queue_s"], first["decode_s"]) == (0.25, 1.0)
    assert id not in repr(first)
    assert (second["route"], second["status"], second["outcome"]) == ("/v1/streams/{id}", 404, "invalid")


async def test_an_internal_error_is_a_500_without_details(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Before the headers it has OpenAI's format and no traceback; the log has the place and nothing of the request."""
    service = await serve()

    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("secret")

    service.rill.engine.submit = broken  # type: ignore[method-assign]
    async with service.client.post("/stream", json=PROMPT) as response:
        assert response.status == 500
        assert (await response.json())["error"]["code"] == "internal_error"
    (record,) = [record for record in caplog.records if record.name == "service.unexpected"]
    assert record.__dict__["error"] == "ZeroDivisionError" and "secret" not in repr(record.__dict__)


async def test_an_internal_error_after_the_headers_is_an_event(serve: Serve) -> None:
    """The stream's reader gets it in the stream's dialect, and the connection ends properly."""
    service = await serve(by_hand=True)
    asking = asyncio.create_task(service.client.post("/stream", json=PROMPT))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    response = await asking
    (stream,) = service.rill.streams.table.in_role(Role.MADE)
    stream.log.append("not bytes")  # type: ignore[arg-type]  # as a bug in the service would
    stream.log.weights.append(0)
    stream.log.n_visible += 1
    stream.log.readers[0].wake()
    raw = await response.read()
    assert raw.endswith(b"\n\n") and raw.count(b"event: failure") == 1 and b"internal_error" in raw
