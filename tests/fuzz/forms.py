"""Requests for an answer of a given form: schemas, patterns and grammars, mostly invalid or expensive."""

from __future__ import annotations

import random
from typing import Any

import orjson

from tests.fuzz.bodies import Field, asked
from tests.fuzz.request import Request
from tests.fuzz.values import POISON

SCHEMAS: tuple[Any, ...] = (
    {},
    {"type": "object"},
    {"not": {}},
    {"type": "integer", "multipleOf": 999},
    {"type": "array", "minItems": 5_000_000, "items": {"$ref": "#"}},
    {"x-guidance": {"lenient": True, "whitespace_pattern": ".*"}, "uniqueItems": True},
    {"$ref": "#/$defs/0", "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(1500)}},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(700)}},
    {"type": "object", "patternProperties": {f"^{i}.*x": {} for i in range(30)}},
    {"oneOf": [{"const": i} for i in range(3)]},
    {"enum": ["\0", "\u2581", "é", 1e300, None, [], {}]},
    {"type": "string", "pattern": "(a*)*(.*b.{200}){9}", "maxLength": 9},
)
PATTERNS = ("a", "", "(", "(?=a)b", "((a{100}){100}){100}", ".*" * 300, "\u2581+", "(?s:.)*", "[^", "^a$", "\n", "/")
RULES = (
    "start: start",
    "start: /a*/ | x",
    '{"grammars":[]}',
    "start: <|im_end|>",
    'start: x\nx: x x | "a" | ""',
    "start",
)


def structures(rng: random.Random) -> Request:
    """One form, or occasionally two, which is one too many."""
    schema = orjson.dumps(rng.choice(SCHEMAS))
    pattern, rules = (orjson.dumps(rng.choice(texts)) for texts in (PATTERNS, RULES))
    choice = orjson.dumps(rng.choices(POISON, k=rng.choice([0, 1, 3, 1025])))
    forms: list[Field] = [
        *((name, schema) for name in (b'"json_schema"', b'"guided_json"', b'"format"')),
        *((b'"guided_regex"', pattern), (b'"guided_choice"', choice), (b'"guided_grammar"', rules)),
        (b'"response_format"', b'{"type":"json_schema","json_schema":{"schema":%b}}' % schema),
        (b'"structured_outputs"', b'{"%b":%b}' % rng.choice([(b"json", schema), (b"regex", pattern), (b"x", choice)])),
    ]
    return asked(rng, "structures", *rng.sample(forms, 1 if rng.random() < 0.9 else 2))


KINDS = (structures,)
