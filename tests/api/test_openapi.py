"""/openapi.json: what it promises of each operation is what is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service import __version__, errors
from service.api.aliases import ALIASES
from service.api.openapi import document
from service.api.operations import OPERATIONS
from service.api.params import StreamRequest
from service.protocol.sampling import Sampling
from tests.api.schemas import event_faults, faults, resolved, values
from tests.conftest import Serve, Service
from tests.events import parse

DOCUMENT = document("1")
STREAM = "0" * 32
FAST = {"pace": 10_000}  # for which a test need not wait
HEADERS = {
    "Last-Event-ID": st.sampled_from(["lost", f"{STREAM}.0.00000000", "0", ""]),
    "Idempotency-Key": st.from_regex(r"[A-Za-z0-9._~-]{1,128}", fullmatch=True),
    "X-Resumable": st.just("1"),
}
EACH = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def operation(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def requests(path: str, method: str) -> st.SearchStrategy[dict[str, Any]]:
    """Requests that the document allows: path, query, headers and body."""
    described = operation(path, method)
    places: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
    for one in (resolved(p, DOCUMENT) for p in described.get("parameters", ())):
        schema = one["schema"] if "schema" in one else one["content"]["application/json"]["schema"]
        places[one["in"]][one["name"]] = values(schema, DOCUMENT)
    body: st.SearchStrategy[Any] = st.none()
    if "requestBody" in described:
        body = values(described["requestBody"]["content"]["application/json"]["schema"], DOCUMENT)
    known = places["query"]
    names = st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True) if known else st.just([])
    query = names.flatmap(lambda chosen: st.fixed_dictionaries({name: known[name] for name in chosen}))
    headers = st.fixed_dictionaries({}, optional={name: HEADERS[name] for name in places["header"]})
    return st.fixed_dictionaries({"query": query, "body": body, "headers": headers})


async def send(service: Service, path: str, method: str, asked: dict[str, Any]) -> aiohttp.ClientResponse:
    given, body = asked["query"] | FAST, asked["body"]
    query = {name: v if isinstance(v, str) else orjson.dumps(v).decode() for name, v in given.items()}
    data = None if body is None else orjson.dumps(body)
    return await service.client.request(method, at(path), params=query, data=data, headers=asked["headers"])


def at(path: str) -> str:
    return path.replace("{id}", STREAM).replace("{name}", "scripted")


async def conforms(response: aiohttp.ClientResponse, path: str, method: str) -> list[str]:
    """Why a response is not as it is described; none: it is."""
    described = operation(path, method)["responses"].get(str(response.status))
    if described is None:
        return [f"status {response.status} is not described"]
    content = resolved(described, DOCUMENT).get("content", {})
    raw = await response.read()
    if not content:
        return [] if raw == b"" else ["a body"]
    if response.content_type not in content:
        return [f"{response.content_type} is not described"]
    schema = content[response.content_type]["schema"]
    if response.content_type == "text/event-stream":
        return [fault for event in parse(raw) for fault in event_faults(event, schema, DOCUMENT)]
    value = await response.json() if response.content_type == "application/json" else raw.decode()
    return faults(value, schema, DOCUMENT)


def test_it_is_valid() -> None:
    """Its schemas are JSON Schemas, its references lead somewhere, and its operations' names are unique."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert resolved({"$ref": f"#/components/schemas/{name}"}, DOCUMENT)
    names = [operation(path, method)["operationId"] for path, method in EACH]
    assert len(names) == len(set(names))
    references = orjson.dumps(DOCUMENT).decode().split('"$ref":"')[1:]
    assert all(resolved({"$ref": one.partition('"')[0]}, DOCUMENT) for one in references)


async def test_it_has_every_route(serve: Serve) -> None:
    """All of the service's table, under each of their names, without the HEADs of GETs and the page's files."""
    routes = (await serve()).rill.app.router.routes()
    served = {(r.resource.canonical, r.method.lower()) for r in routes if r.resource and r.method != "HEAD"}
    assert served - {("/web/{name}", "get")} == set(EACH)


def test_it_has_every_error() -> None:
    """Each class of errors.py, but those of another method or path, and of a gap in a log."""
    described = {kind for one in OPERATIONS for kind in one.refusals}
    known = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RillError)}
    assert known - described == {errors.MethodNotAllowed, errors.NotFound, errors.Refused, errors.LogGap}


def test_fields_have_bounds_and_defaults() -> None:
    """As they are validated, with llama.cpp's defaults."""
    fields = DOCUMENT["components"]["schemas"]["StreamRequest"]["properties"]
    assert set(fields) == set(StreamRequest.model_fields)
    assert fields["top_k"]["anyOf"][0] == {"type": "integer", "minimum": -1, "maximum": 2**31 - 1}
    assert fields["top_k"]["default"] == Sampling(seed=0).top_k


def test_an_alias_says_so() -> None:
    """Its operation is that of the route's own name, but for its own name and a note."""
    for alias in ALIASES:
        path = alias.replace(":.+", "")
        for found in DOCUMENT["paths"][path].values():
            assert "Another name of" in found["description"]


@pytest.mark.parametrize(("path", "method"), EACH)
async def test_what_is_promised_is_answered(serve: Serve, path: str, method: str) -> None:
    """Whatever the document allows gets no 5xx, and a response that is described: its status, kind and body."""
    service = await serve(resume_grace_s=0.1)
    loop = asyncio.get_running_loop()

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(requests(path, method))
    def ask(asked: dict[str, Any]) -> None:
        status, found = asyncio.run_coroutine_threadsafe(answer(asked), loop).result()
        assert status < 500, asked
        assert found == [], asked

    async def answer(asked: dict[str, Any]) -> tuple[int, list[str]]:
        response = await send(service, path, method, asked)
        return response.status, await conforms(response, path, method)

    await asyncio.to_thread(ask)


@pytest.mark.parametrize(("path", "method"), EACH)
async def test_refusals_are_described(serve: Serve, path: str, method: str) -> None:
    """So is a request without a key, one of another site, and one while nothing is loaded."""
    service = await serve(starts_ready=False, api_keys="k")
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Authorization": "Bearer k"}, {"Expect": "fox"}):
        async with service.client.request(method, at(path), data=b"{}", headers=headers) as response:
            assert await conforms(response, path, method) == []


async def test_a_stream_and_its_receipt(serve: Serve) -> None:
    """Each kind of event, and what is said of a stream while it runs and at its end."""
    service = await serve(by_hand=True)
    creating = asyncio.create_task(service.client.post("/v1/streams", json={"prompt": "hi"}))
    id = (await service.engine.submission()).id
    service.engine.accept(id)
    async with await creating as response:
        assert await conforms(response, "/v1/streams", "post") == []
    service.engine.delta(id, "a")
    for end in (False, True):
        if end:
            service.engine.finish(id)
        async with service.client.get(f"/v1/streams/{id}", headers={"Accept": "application/json"}) as response:
            assert await conforms(response, "/v1/streams/{id}", "get") == []
    async with service.client.get(f"/v1/streams/{id}") as response:
        assert await conforms(response, "/v1/streams/{id}", "get") == []
    async with service.client.delete(f"/v1/streams/{id}") as response:
        assert await conforms(response, "/v1/streams/{id}", "delete") == []


async def test_version_is_vllms(serve: Serve) -> None:
    """The service's own version, under the name that vLLM's clients read."""
    service = await serve(starts_ready=False)
    async with service.client.get("/version") as response:
        assert (response.status, await response.json()) == (200, {"version": __version__})


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_it_is_cached(serve: Serve, path: str) -> None:
    """For minutes, and an ETag that is still valid is answered 304, without a body."""
    service = await serve()
    async with service.client.get(path) as response:
        assert (response.status, response.headers["Cache-Control"]) == (200, "public, max-age=300")
        etag = response.headers["ETag"]
    async with service.client.get(path, headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")


async def test_it_is_open(serve: Serve) -> None:
    """Without a key, and to pages of other origins: it says nothing of the installation."""
    service = await serve(api_keys="k", model="/somewhere/else.gguf")
    async with service.client.get("/openapi.json", headers={"Sec-Fetch-Site": "cross-site"}) as response:
        assert response.status == 200
        found = await response.json()
    assert found == document(__version__)
    assert "somewhere" not in orjson.dumps(found).decode()
