"""Which schemas are refused, and by which keyword."""

from __future__ import annotations

import re
from typing import Any

import pytest

from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.json_schema import FORMATS, MAX_PATTERNS, OPTIONS, UNENFORCED, enforceable

REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: {}}, name) for name in UNENFORCED),
    ({"type": "string", "format": "idn-email"}, "format"),
    ({"type": "string", "nullable": True}, "nullable"),
    ({"multipleOf": 1001}, "multipleOf"),
    ({"multipleOf": 10.01}, "multipleOf"),
    ({"multipleOf": -999983}, "multipleOf"),
    ({"multipleOf": 1e300}, "multipleOf"),
    *(({"$ref": path}, "$ref") for path in ("https://example.org/x", "x", "#x", "#/nowhere", "#/properties/9", "")),
    ({"patternProperties": {f"^{i}": {} for i in range(MAX_PATTERNS + 1)}}, "patternProperties"),
]


@pytest.mark.parametrize(("part", "keyword"), REFUSED)
def test_a_keyword_that_cannot_be_enforced(part: dict[str, Any], keyword: str) -> None:
    """It is refused by its name wherever it holds, whatever draft the schema names."""
    wholes: list[dict[str, Any]] = [
        part,
        {"$schema": "http://json-schema.org/draft-04/schema#", **part},
        {"properties": {"a": {"items": part}}},
        {"prefixItems": [{}, part]},
        {"items": [part]},
        {"additionalProperties": part},
        {"patternProperties": {"^a": part}},
        {"anyOf": [{"allOf": [{"oneOf": [part]}]}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": part}},
        {"$ref": "#/anywhere/1", "anywhere": [{}, part]},
        {"$ref": "#/default/x~1%20y~0", "default": {"x/ y~": part}},
    ]
    for whole in wholes:
        with pytest.raises(GrammarError, match=re.escape(f"'{keyword}'")):
            enforceable(whole)


KEPT: list[dict[str, Any]] = [
    {},
    {"properties": {name: {} for name in (*UNENFORCED, "nullable", "format")}},
    {"const": {"not": 1}, "enum": [{"if": 1}], "default": {"then": 1}, "examples": [{"else": 1}]},
    {"$defs": {"unused": {"not": {}}}},
    {"nullable": False, "deprecated": True, "title": "x", "x-order": 3, "discriminator": {"propertyName": "a"}},
    *({"type": "string", "format": name} for name in FORMATS),
    *({"multipleOf": n} for n in (1, 1000, 0.01, 2.5, 1.0, 0.001)),
    {"properties": {"self": {"$ref": "#"}}, "items": {"$ref": "#/"}},
    {"$ref": 7, "items": 7, "anyOf": "x", "properties": [], "format": 7, "multipleOf": "x"},  # the compiler's to refuse
]


@pytest.mark.parametrize("schema", KEPT)
def test_what_is_passed_on(schema: dict[str, Any]) -> None:
    """Values and names are no keywords, and what no draft knows is ignored."""
    assert enforceable(schema) == {**schema, "x-guidance": OPTIONS}


def test_options_that_are_references() -> None:
    """Those of a oneOf to objects, as pydantic writes tagged unions, say that they are objects; others are the same."""
    defs = {"a": {"type": "object"}, "b": {"type": "string"}}
    options = [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"const": 1}, True]
    said = enforceable({"items": {"oneOf": options}, "$defs": defs})
    assert said["items"]["oneOf"] == [{"type": "object", "$ref": "#/$defs/a"}, *options[1:]]


def test_parts_have_no_address_of_their_own() -> None:
    """A reference would mean another place then."""
    assert enforceable({"$id": "https://example.org/x"})
    with pytest.raises(GrammarError, match=re.escape("'$id'")):
        enforceable({"items": {"$id": "x"}})


def test_a_clients_own_options_are_overridden() -> None:
    """`x-guidance` could switch keywords off."""
    assert enforceable({"x-guidance": {"lenient": True, "whitespace_pattern": ".*"}}) == {"x-guidance": OPTIONS}


def test_a_schema_of_many_references() -> None:
    """Each is followed once."""
    loop = {str(i): {"anyOf": [{"$ref": f"#/$defs/{j}"} for j in range(100)]} for i in range(100)}
    enforceable({"$ref": "#/$defs/0", "$defs": loop})
