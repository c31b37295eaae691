"""Random JSON Schemas of what can be enforced, small enough that a model of random weights ends its answer."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]
FORMATS = ("date", "time", "ipv4", "uuid", "date-time")


def schema(rng: random.Random, depth: int = 3) -> Schema:
    """One of any type; a container holds others up to `depth`."""
    if depth and rng.random() < 0.6:
        return rng.choice([_object, _array, _union])(rng, depth - 1)
    return rng.choice([_integer, _number, _string, _constant, _word])(rng)


def whole(rng: random.Random) -> Schema:
    """One with definitions, which its parts may refer to."""
    defs = {f"d{i}": schema(rng, 1) for i in range(2)}
    parts = {f"p{i}": rng.choice([schema(rng), {"$ref": f"#/$defs/d{i % 2}"}]) for i in range(rng.randint(1, 3))}
    required = rng.sample(sorted(parts), rng.randint(0, len(parts)))
    return {
        "type": "object",
        "properties": parts,
        "required": required,
        "additionalProperties": False,
        "$defs": defs,
    }


def _word(rng: random.Random) -> Schema:
    return {"type": rng.choice(["null", "boolean"])}


def _integer(rng: random.Random) -> Schema:
    low = rng.randint(-200, 100)
    bounds = {"minimum": low, rng.choice(["maximum", "exclusiveMaximum"]): low + rng.randint(20, 1000)}
    more = {"multipleOf": rng.choice([2, 3, 5, 7])} if rng.random() < 0.3 else {}
    return {"type": "integer", **bounds, **more}


def _number(rng: random.Random) -> Schema:
    low = rng.uniform(-10, 10)
    return {"type": "number", "minimum": round(low, 2), "maximum": round(low + 5, 2)}


def _string(rng: random.Random) -> Schema:
    return rng.choice(
        [
            {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(3, 9)},
            {"type": "string", "pattern": rng.choice(["^[a-f]{1,6}$", "^(yes|no|é)$", "^[A-Z][a-z]{0,4}-[0-9]{2}$"])},
            {"type": "string", "format": rng.choice(FORMATS)},
        ]
    )


def _constant(rng: random.Random) -> Schema:
    values: list[Any] = [0, -1.5, "a b", 'q"\\', "é✨", None, True, [1, "x"], {"k": [None]}]
    return rng.choice([{"const": rng.choice(values)}, {"enum": rng.sample(values, 3)}])


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    first = {"prefixItems": [schema(rng, depth)]} if rng.random() < 0.3 else {}
    return {"type": "array", "items": schema(rng, depth), "minItems": least, "maxItems": least + 2, **first}


def _object(rng: random.Random, depth: int) -> Schema:
    parts = {name: schema(rng, depth) for name in rng.sample(["a", "b c", "é", "items", "not"], rng.randint(0, 3))}
    required = rng.sample(sorted(parts), rng.randint(0, len(parts)))
    return {"type": "object", "properties": parts, "required": required, "additionalProperties": False}


def _union(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [schema(rng, depth) for _ in range(rng.randint(1, 3))]}
