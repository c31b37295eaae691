"""The fields that ask for an answer's form: each reaches the engine as the same kind of value, and only one may."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from service.api.fields import MAX_GRAMMAR_CHARS
from service.api.params import StreamRequest, parse_query, validate
from service.errors import Invalid
from service.protocol.frames import Rejected
from service.protocol.structure import Structure
from tests.conftest import Serve
from tests.fakes import CHAT

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"é": {"type": "integer"}}}
TEXT = '{"type":"object","properties":{"é":{"type":"integer"}}}'
OBJECT = '{"type":"object"}'
GBNF, LARK = 'root ::= "a"', 'start: "a"'

# Each field's value, and the kind and text of what it asks for.
FIELDS: list[tuple[str, Any, str, str]] = [
    ("response_format", {"type": "json_object"}, "json", OBJECT),
    ("response_format", {"type": "json_object", "schema": SCHEMA}, "json", TEXT),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "json", TEXT),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}, "json", TEXT),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": False}}, "json", TEXT),
    ("response_format", {"type": "json_schema", "schema": SCHEMA}, "json", TEXT),
    ("json_schema", SCHEMA, "json", TEXT),
    ("json_schema", {}, "json", "{}"),
    ("guided_json", SCHEMA, "json", TEXT),
    ("guided_json", TEXT, "json", TEXT),
    ("guided_regex", "[a-z]+", "regex", "[a-z]+"),
    ("guided_choice", ["yes", "é"], "choice", '["yes","é"]'),
    ("guided_grammar", LARK, "lark", LARK),
    ("structured_outputs", {"json": SCHEMA}, "json", TEXT),
    ("structured_outputs", {"json_object": True}, "json", OBJECT),
    ("structured_outputs", {"regex": "[a-z]+"}, "regex", "[a-z]+"),
    ("structured_outputs", {"choice": ["yes"]}, "choice", '["yes"]'),
    ("structured_outputs", {"grammar": LARK, "disable_any_whitespace": True}, "lark", LARK),
    ("format", "json", "json", OBJECT),
    ("format", SCHEMA, "json", TEXT),
]


def structure(**fields: Any) -> Structure | None:
    return validate(StreamRequest, {"prompt": "hi", **fields}).to_generation().structure


@pytest.mark.parametrize(("name", "value", "kind", "text"), FIELDS)
def test_each_field_asks_for_a_form(name: str, value: Any, kind: str, text: str) -> None:
    """In a body and in a query, where it is JSON or a text."""
    expected = Structure(kind, text, name)  # type: ignore[arg-type]  # one of its kinds
    assert structure(**{name: value}) == expected
    query = urlencode({"prompt": "hi", name: value if isinstance(value, str) else orjson.dumps(value)})
    assert validate(StreamRequest, parse_query(query), strict=False).to_generation().structure == expected


@pytest.mark.parametrize("name", ["guided_grammar", "grammar", "structured_outputs"])
def test_gbnf_keeps_its_own_way(name: str) -> None:
    """llama.cpp's grammar sampler follows it, whichever field holds it."""
    value: Any = {"grammar": GBNF} if name == "structured_outputs" else GBNF
    generation = validate(StreamRequest, {"prompt": "hi", name: value}).to_generation()
    assert (generation.structure, generation.sampling.grammar) == (None, GBNF)


NOTHING: list[dict[str, Any]] = [
    {"response_format": {"type": "text"}},
    {"structured_outputs": {}, "guided_choice": [], "guided_regex": "", "guided_grammar": "", "format": ""},
    {"structured_outputs": {"regex": "", "json_object": False, "structural_tag": None}},
    {name: None for name, *_ in FIELDS},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_what_asks_for_nothing(fields: dict[str, Any]) -> None:
    """Defaults that clients send; another field may ask for something then."""
    assert structure(**fields) is None
    assert structure(**(fields | {"json_schema": {}})) == Structure("json", "{}", "json_schema")


@pytest.mark.parametrize(
    ("fields", "one", "other"),
    [
        ({"grammar": GBNF, "json_schema": {}}, "grammar", "json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format", "guided_regex"),
        ({"guided_json": {}, "format": "json"}, "guided_json", "format"),
        ({"guided_choice": ["a"], "guided_grammar": GBNF}, "guided_choice", "guided_grammar"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.json", "structured_outputs.regex"),
    ],
)
def test_two_fields_are_refused(fields: dict[str, Any], one: str, other: str) -> None:
    """The message names both, even if they ask for the same."""
    with pytest.raises(Invalid, match=f"'{one}' and '{other}'") as refused:
        structure(**fields)
    assert refused.value.param == other.partition(".")[0]


DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"items": DEEP}

BAD: list[tuple[str, Any, str]] = [
    ("response_format", "text", "not valid JSON"),
    ("response_format", 7, "an object"),
    ("response_format", {}, "missing"),
    ("response_format", {"type": "xml"}, "'text', 'json_object' or 'json_schema'"),
    ("response_format", {"type": "json_schema"}, "missing"),
    ("response_format", {"type": "json_schema", "json_schema": {}}, "missing"),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": True}}, "an object"),
    ("json_schema", "{", "not valid JSON"),
    ("json_schema", True, "an object"),
    ("json_schema", {"description": "x" * MAX_GRAMMAR_CHARS}, f"at most {MAX_GRAMMAR_CHARS}"),
    ("json_schema", DEEP, "too deep"),
    ("guided_json", [], "an object"),
    ("guided_regex", 7, "a string"),
    ("guided_regex", "x" * (MAX_GRAMMAR_CHARS + 1), f"at most {MAX_GRAMMAR_CHARS}"),
    ("guided_choice", "yes", "not valid JSON"),
    ("guided_choice", [7], "a string"),
    ("guided_choice", ["x"] * 1025, "at most 1024"),
    ("guided_choice", ["x" * 1000] * 100, f"at most {MAX_GRAMMAR_CHARS}"),
    ("guided_grammar", 7, "a string"),
    ("structured_outputs", {"structural_tag": "x"}, "not supported"),
    ("structured_outputs", {"json": {}, "whitespace_pattern": " "}, "not supported"),
    ("structured_outputs", {"json": {}, "disable_additional_properties": True}, "not supported"),
    ("structured_outputs", {"json": 7}, "an object"),
    ("format", "yaml", "not valid JSON"),
    ("format", 7, "an object"),
]


@pytest.mark.parametrize(("name", "value", "why"), BAD)
def test_a_value_that_is_no_form(name: str, value: Any, why: str) -> None:
    """400 with the field's name and the reason."""
    with pytest.raises(Invalid, match=why) as refused:
        structure(**{name: value})
    assert refused.value.param == name
    assert name in refused.value.message


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        *((path, {"prompt": "hi"}) for path in ("/stream", "/v1/streams", "/v1/completions")),
        ("/v1/chat/completions", CHAT),
    ],
)
async def test_every_route_takes_them(serve: Serve, path: str, prompt: dict[str, Any]) -> None:
    """The engine gets the form with the request, and what it refuses is 400 with the field's name."""
    service = await serve(by_hand=True)
    body = {**prompt, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}

    async def play() -> None:
        submit = await service.engine.submission()
        assert submit.structure == Structure("json", TEXT, "response_format")
        service.engine.say(Rejected(submit.id, "invalid_request", "response_format: 'not' …", "response_format"))

    playing = asyncio.create_task(play())
    async with service.client.post(path, json=body) as response:
        error = (await response.json())["error"]
    await playing
    assert (response.status, error["param"]) == (400, "response_format")


async def test_each_of_several_answers_has_the_form(serve: Serve) -> None:
    """Those of `n`, and those to several prompts."""
    service = await serve()
    body = {"prompt": ["a", "b"], "n": 2, "guided_regex": "[a-z]+"}
    async with service.client.post("/v1/completions", json=body) as response:
        assert response.status == 200
    assert [s.structure for s in service.engine.submitted] == [Structure("regex", "[a-z]+", "guided_regex")] * 4
