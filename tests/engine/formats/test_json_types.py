"""The JSON types that a schema allows for a property."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.formats.json_types import fits, types_of


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({}, ""),
        (True, ""),
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string null"),
        ({"type": "nonsense"}, ""),
        ({"enum": ["a", 1]}, "string number"),
        ({"const": None}, "null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string null"),
        ({"anyOf": [{"type": "string"}, {}]}, ""),
        ({"$ref": "#/$defs/a"}, "number"),
        ({"$ref": "#/$defs/loop"}, ""),
        ({"$ref": "#/no/where"}, ""),
        ({"$ref": "https://example.com/x"}, ""),
    ],
)
def test_types(schema: Any, types: str) -> None:
    """None where it does not say; references are followed within the schema."""
    root = {"properties": {"p": schema}, "$defs": {"a": {"type": "number"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert types_of(root, "p") == set(types.split())


@pytest.mark.parametrize(
    ("value", "type"), [(None, "null"), (True, "boolean"), (1, "number"), ("", "string"), ([], "array"), ({}, "object")]
)
def test_a_values_type(value: Any, type: str) -> None:
    """True is no number."""
    kinds = ("null", "boolean", "number", "string", "array", "object")
    assert [kind for kind in kinds if fits(value, frozenset({kind}))] == [type]
