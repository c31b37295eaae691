from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Serve, Service

PROMPT = {"prompt": "hi"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
GUARDED: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/stream", {"params": PROMPT}),
    ("POST", "/stream", {"json": PROMPT}),
    ("POST", "/v1/streams", {"json": PROMPT}),
    ("POST", "/v1/chat/completions", {"json": CHAT}),
    ("POST", "/v1/completions", {"json": PROMPT}),
    ("GET", "/v1/models", {}),
    ("GET", "/v1/models/scripted", {}),
    ("POST", "/chat/completions", {"json": CHAT}),
    ("POST", "/completions", {"json": PROMPT}),
    ("POST", "/completion", {"json": PROMPT}),
    ("GET", "/models", {}),
    ("GET", "/models/scripted", {}),
    ("GET", "/props", {}),
]


async def status(service: Service, method: str, path: str, **options: Any) -> int:
    async with service.client.request(method, path, **options) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize(("method", "path", "options"), GUARDED)
async def test_routes_that_do_work_require_a_key(serve: Serve, method: str, path: str, options: dict[str, Any]) -> None:
    """Without a key or with a wrong one a request gets 401 in OpenAI's error format; either valid key is accepted."""
    service = await serve(api_keys="one, two")
    for header in (None, "Bearer", "Bearer ", "Bearer wrong", "Basic one", "one", "Bearer one two", "Bearer é"):
        headers = {} if header is None else {"Authorization": header}
        async with service.client.request(method, path, headers=headers, **options) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (401, "invalid_api_key"), header
            assert response.headers["WWW-Authenticate"] == "Bearer"
    for header in ("Bearer one", "bearer two", "Bearer  two"):
        assert await status(service, method, path, headers={"Authorization": header}, **options) < 300
    assert await service.metric('llm_requests_total{outcome="unauthorized",route="/stream"}') == (
        8 if path == "/stream" else 0
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/health", "/v1/health", "/version"])
async def test_routes_that_need_no_key(serve: Serve, path: str) -> None:
    """The page, the health routes and the metrics are open."""
    service = await serve(api_keys="one")
    assert await status(service, "GET", path) == 200


async def test_reading_needs_only_the_id_but_cancelling_needs_the_key(serve: Serve) -> None:
    """An EventSource can't send a key: a 128-bit id is the right to read. Cancelling requires the key that made the
    stream."""
    service = await serve(api_keys="one,two", by_hand=True)
    mine = {"Authorization": "Bearer one"}
    creating = asyncio.create_task(service.client.post("/v1/streams", json=PROMPT, headers=mine))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    path = (await (await creating).json())["url"]
    service.engine.delta(id, "a")
    async with service.client.get(path) as response:
        assert response.status == 200
    assert await status(service, "DELETE", path) == 401
    assert await status(service, "DELETE", path, headers={"Authorization": "Bearer two"}) == 404
    assert service.engine.cancelled == []
    assert await status(service, "DELETE", path, headers=mine) == 204
    assert service.engine.cancelled == [id]


async def test_idempotency_keys_are_scoped_to_a_tenant(serve: Serve) -> None:
    """The same `key=` under two API keys makes two streams."""
    service = await serve(api_keys="one,two")
    for api_key in ("one", "two", "one"):
        headers = {"Authorization": f"Bearer {api_key}"}
        await status(service, "GET", "/stream", params={**PROMPT, "key": "k"}, headers=headers)
    assert len(service.engine.submitted) == 2


async def test_each_key_is_a_tenant_of_the_engine(serve: Serve) -> None:
    """On every route the engine gets the request's tenant, under a name that reveals nothing of the key; without keys
    there is one tenant."""
    service = await serve(api_keys="one,two")
    for method, path, options in GUARDED:
        for api_key in ("one", "two"):
            await status(service, method, path, headers={"Authorization": f"Bearer {api_key}"}, **options)
    tenants = [submit.tenant for submit in service.engine.submitted]
    assert len(set(tenants[::2])) == len(set(tenants[1::2])) == 1 and len(set(tenants)) == 2
    assert len(tenants) >= 8 and not {"", "one", "two"} & set(tenants)
    service = await serve()
    await status(service, "GET", "/stream", params=PROMPT, headers={"Authorization": "Bearer one"})
    assert [submit.tenant for submit in service.engine.submitted] == [""]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Purpose": "prefetch"},
        {"Sec-Purpose": "prefetch;prerender"},
        {"Purpose": "prefetch"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Origin": "http://evil.example"},  # all that browsers send over plain HTTP to hosts other than loopback
        {"Origin": "null"},
    ],
)
async def test_a_prefetch_or_another_site_starts_no_work(serve: Serve, headers: dict[str, str]) -> None:
    """They get 403, and nothing is generated."""
    service = await serve(allowed_origins="https://good.example")
    for method, path, options in GUARDED:
        assert await status(service, method, path, headers=headers, **options) == 403
    assert service.engine.submitted == []


@pytest.mark.parametrize("origin", ["http://127.0.0.1:1234", "https://127.0.0.1", "https://good.example"])
async def test_own_and_allowed_origins_are_accepted(serve: Serve, origin: str) -> None:
    """The requested host, whatever its port is outside a container, and the allowed origins."""
    service = await serve(allowed_origins="https://good.example")
    for method, path, options in GUARDED:
        assert await status(service, method, path, headers={"Origin": origin}, **options) != 403


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
async def test_own_page_and_typed_address_are_accepted(serve: Serve, site: str) -> None:
    """Only cross-site requests are refused."""
    service = await serve()
    assert await status(service, "GET", "/stream", params=PROMPT, headers={"Sec-Fetch-Site": site}) == 200


async def test_an_allowed_origin_may_read_the_answer(serve: Serve) -> None:
    """CORS headers name exactly that origin, on streams and on errors, and Vary keeps caches from mixing origins."""
    service = await serve(allowed_origins="https://good.example/, https://also.example")
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://good.example"}
    for query in (PROMPT, {}):
        async with service.client.get("/stream", headers=headers, params=query) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert "X-Stream-Id" in response.headers["Access-Control-Expose-Headers"]
            assert "Origin" in response.headers["Vary"]
            await response.read()
    async with service.client.get("/healthz", headers={"Origin": "https://evil.example"}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_preflight_is_answered_for_allowed_origins(serve: Serve) -> None:
    """An allowed origin gets 204 with the allowed methods and headers, any other 405."""
    service = await serve(allowed_origins="https://good.example")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    headers = {"Origin": "https://good.example", **asked}
    for path in ("/stream", "/v1/chat/completions", "/completion", "/completions", "/v1/streams/" + "0" * 32):
        async with service.client.options(path, headers=headers) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert response.headers["Access-Control-Allow-Headers"] == "authorization"
            assert "DELETE" in response.headers["Access-Control-Allow-Methods"]
        async with service.client.options(path, headers={**headers, "Origin": "https://evil.example"}) as response:
            assert response.status == 405
            assert "Access-Control-Allow-Origin" not in response.headers
