"""Values that a JSON Schema allows, for hypothesis, and whether a value is one: as far as /openapi.json needs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.events import Event

Schema = dict[str, Any]
MOST = 4  # items of a list, characters of a text: small requests find as much
TEXT = st.characters(exclude_categories=["Cs"])
SCALARS: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-9, 9) | st.text(TEXT, max_size=MOST)


def values(schema: Schema, document: Schema) -> st.SearchStrategy[Any]:
    """Of any type that it allows, bounds included."""
    if "$ref" in schema:
        return values(resolved(schema, document), document)
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of([values(one, document) for one in several])
    if "type" not in schema:
        return SCALARS
    return _of_type(schema, document)


def _of_type(schema: Schema, document: Schema) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"])
        case "string":
            return st.text(TEXT, min_size=schema.get("minLength", 0), max_size=MOST)
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum", 2**63) - 1)
            return st.integers(low, high)
        case "number":
            return st.floats(
                schema.get("minimum", schema.get("exclusiveMinimum")),
                schema.get("maximum"),
                exclude_min="exclusiveMinimum" in schema,
                allow_nan=False,
                allow_infinity=False,
            )
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array" if "prefixItems" in schema:
            return st.tuples(*(values(one, document) for one in schema["prefixItems"])).map(list)
        case "array":
            most = min(MOST, schema.get("maxItems", MOST))
            return st.lists(values(schema["items"], document), min_size=schema.get("minItems", 0), max_size=most)
        case "object":
            return _objects(schema, document)
    raise AssertionError(f"no values for {schema}")


def _objects(schema: Schema, document: Schema) -> st.SearchStrategy[Any]:
    """With the fields that it needs, and a few of the others."""
    properties = {name: values(one, document) for name, one in schema.get("properties", {}).items()}
    if not properties:
        given = schema.get("additionalProperties")
        kinds = values(given, document) if isinstance(given, dict) else SCALARS
        return st.dictionaries(st.from_regex("[0-9]{1,4}", fullmatch=True), kinds, max_size=MOST)
    needed = {name: properties[name] for name in schema.get("required", ())}
    others = sorted(set(properties) - set(needed))
    chosen = st.lists(st.sampled_from(others), max_size=MOST, unique=True) if others else st.just([])
    return chosen.flatmap(lambda names: st.fixed_dictionaries(needed | {name: properties[name] for name in names}))


def resolved(schema: Schema, document: Schema) -> Schema:
    """What its $ref refers to."""
    found: Any = document
    for name in schema["$ref"].removeprefix("#/").split("/") if "$ref" in schema else ():
        found = found[name.replace("~1", "/")]
    return found if "$ref" in schema else schema


def faults(value: Any, schema: Schema, document: Schema) -> list[str]:
    """Why it does not conform; none: it does."""
    validator = Draft202012Validator(schema | {"components": document["components"]})
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def event_faults(event: Event, schema: Schema, document: Schema) -> list[str]:
    """Why an event is none of those that a text/event-stream is described with."""
    kinds = list(_kinds(schema, document))
    named = [k for k in kinds if k["properties"].get("event", {}).get("const", "message") == event.name]
    found: list[str] = [] if named else [f"no event is called {event.name!r}"]
    for kind in named:
        data = kind["properties"]["data"]
        if "const" in data:
            wrong = [] if event.data == data["const"] else [f"it is not {data['const']!r}"]
        else:
            wrong = _data_faults(event.data, data["contentSchema"], document)
        if not wrong:
            return []
        found += wrong
    return found


def _data_faults(data: str, schema: Schema, document: Schema) -> list[str]:
    try:
        return faults(orjson.loads(data), schema, document)
    except orjson.JSONDecodeError as e:
        return [str(e)]


def _kinds(schema: Schema, document: Schema) -> Iterator[Schema]:
    schema = resolved(schema, document)
    for one in schema.get("anyOf", ()):
        yield from _kinds(one, document)
    yield from schema.get("items", {}).get("anyOf", ())
