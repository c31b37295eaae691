"""Which JSON types a schema allows for an argument, and which a value has. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALL = frozenset({"string", "number", "boolean", "null", "array", "object"})
_DEEPEST = 8  # of a choice in a choice


def types_of(schema: Mapping[str, Any], key: str) -> frozenset[str]:
    """Of one property of an object; empty: the schema does not say."""
    properties = schema.get("properties")
    return allowed(properties.get(key), schema) if isinstance(properties, Mapping) else frozenset()


def fits(value: Any, types: frozenset[str]) -> bool:
    """Whether a value is of one of these types."""
    return type_of(value) in types


def type_of(value: Any) -> str:
    """A value's JSON type; integers are numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
    return "array"


def allowed(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """By a schema that is a part of root; empty: it does not say."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return frozenset()
    if isinstance(schema.get("$ref"), str):
        return allowed(_target(schema["$ref"], root), root, depth + 1)
    if "type" in schema:
        named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return frozenset("number" if name == "integer" else name for name in named if isinstance(name, str)) & ALL
    if isinstance(schema.get("enum"), list):
        return frozenset(map(type_of, schema["enum"]))
    if "const" in schema:
        return frozenset({type_of(schema["const"])})
    for choice in ("anyOf", "oneOf"):
        if isinstance(schema.get(choice), list):
            found = [allowed(one, root, depth + 1) for one in schema[choice]]
            return frozenset().union(*found) if all(found) else frozenset()
    return frozenset()


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within the schema leads to; None: nothing, or it leads elsewhere."""
    found: Any = root
    for step in reference.removeprefix("#/").split("/") if reference.startswith("#/") else ["#"]:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
