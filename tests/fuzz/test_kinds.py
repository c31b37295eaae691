"""The generators are deterministic, and cover every route and every field with requests of limited size."""

from __future__ import annotations

import random

import orjson
import pytest

from service.api.params import StreamRequest, validate
from tests.conftest import Serve
from tests.fuzz import bodies, values
from tests.fuzz.bodies import MODELS, NAMES
from tests.fuzz.fuzz import KINDS, request
from tests.fuzz.request import Request
from tests.fuzz.wires import Known

N = 5000
KNOWN = Known(("a" * 32,), ("a" * 32 + ".3.0badcafe",))


@pytest.fixture(scope="module")
def drawn() -> list[Request]:
    return [request(1, i, KNOWN) for i in range(N)]


def test_a_number_is_a_request(drawn: list[Request]) -> None:
    """Any request of a seed can be drawn again by itself; another seed's differs."""
    assert [request(1, i, KNOWN) for i in (7, 3)] == [drawn[7], drawn[3]]
    assert request(2, 7, KNOWN) != drawn[7]


def test_every_kind_is_drawn(drawn: list[Request]) -> None:
    """Each is drawn often enough for several variants."""
    kinds = {r.kind for r in drawn}
    assert len(kinds) == len(set(KINDS))
    assert all(len({r.encode() for r in drawn if r.kind == kind}) > 50 for kind in kinds)


def test_every_field_is_drawn(drawn: list[Request]) -> None:
    """All fields of the schemas, and unknown ones."""
    found = {name for r in drawn if r.kind == "fields" for name, _ in r.fields}
    assert {orjson.dumps(name) for name in NAMES} <= found


async def test_every_route_is_drawn(drawn: list[Request], serve: Serve) -> None:
    """All routes of the service's table, each with its method, except the HEADs that aiohttp adds to GETs."""
    found = {(r.method, r.target.partition(b"?")[0]) for r in drawn}
    for route in (await serve()).rill.app.router.routes():
        assert route.resource is not None
        known = {"{id}": "a" * 32, "models/{name}": "models/a%2Fb", "web/{name}": "web/rill.js"}
        path = route.resource.canonical
        for name, value in known.items():
            path = path.replace(name, value)
        assert route.method == "HEAD" or (route.method.encode(), path.encode()) in found


def test_no_request_is_too_large(drawn: list[Request]) -> None:
    """A little over a megabyte at most: a body that is too large is another fault than the intended one."""
    assert max(len(r.encode()) for r in drawn) < 1_500_000


def test_valid_requests_are_short(drawn: list[Request]) -> None:
    """A request that turns out to be valid asks for few tokens, unless that is the wrong field."""
    limits = {orjson.dumps(name) for name in bodies.LIMITS}
    assert all(limits & set(dict(r.fields)) for r in drawn if r.fields)


def test_samplers_are_valid() -> None:
    """They are to be accepted, whatever their values."""
    rng = random.Random(1)
    for _ in range(200):
        raw = dict(bodies.samplers(rng).fields)
        order = {orjson.loads(name): orjson.loads(value) for name, value in raw.items()}
        validate(StreamRequest, {name: value for name, value in order.items() if name != "stream"}).to_generation()


def test_edges_are_on_both_sides() -> None:
    """Values are at a bound, and next to it."""
    numbers = [orjson.loads(value) for value in values.edges(MODELS["temperature"])]
    assert min(numbers) < 0 < 2 < max(numbers)
    assert {0, 2} <= set(numbers)
    assert any(0 < n < 1e-300 for n in numbers) and any(2 < n < 2.001 for n in numbers)
    assert {b"-1", b"-2"} <= set(values.edges(MODELS["max_tokens"])), "a bound within the type counts as well"
    assert values.edges(MODELS["model"]) == []


def test_poison_is_json() -> None:
    """It must pass the parser."""
    rng = random.Random(1)
    for _ in range(200):
        assert isinstance(orjson.loads(values.text(rng)), str)
