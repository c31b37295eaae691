"""Whether all of a JSON Schema can be enforced: a keyword that can't be is refused by its name. Pure.

llguidance refuses keywords that it lacks, too, but only those of the draft that `$schema` names, and follows some that
take it minutes. Keywords of no draft are ignored, as JSON Schema wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from service.engine.sampling.gbnf_parser import GrammarError

Schema = dict[str, Any]

UNENFORCED = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"),
    *("dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"),
    *("$dynamicRef", "$recursiveRef"),
)
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
MAX_MULTIPLE = 1000  # a number's remainder is a state of what matches it: 999,983 takes 6 s
MAX_PATTERNS = 32  # of an object's properties, each compared with each: 500 take 10 s
# Whatever `x-guidance` says. White space is never free: a model could write it without end. \u would let a key that
# `properties` names be spelled in another way.
OPTIONS = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_flexible": False,
    "json_allowed_escapes": 'nrbtf\\"',
}


def enforceable(schema: Schema) -> Schema:
    """The schema, in which `oneOf` is changed, with our options. Raises GrammarError for the first keyword that can't
    be enforced."""
    for one in _parts(schema):
        _check(one)
        if isinstance(options := one.get("oneOf"), list):
            one["oneOf"] = [_followed(schema, option) for option in options]
        if one is not schema and "$id" in one:
            raise GrammarError("'$id' is supported at the top only")
    return schema | {"x-guidance": OPTIONS}


def _parts(schema: Schema) -> Iterator[Schema]:
    """It, the schemas in it, and those that they refer to."""
    waiting: list[Any] = [schema]
    followed: set[str] = set()
    while waiting:
        if not isinstance(one := waiting.pop(), dict):
            continue
        yield one
        waiting += _within(one)
        if isinstance(path := one.get("$ref"), str) and path not in followed:
            followed.add(path)
            waiting.append(_target(schema, path))


def _within(one: Schema) -> Iterator[Any]:
    for name in ("items", "additionalItems", "additionalProperties", "prefixItems", "anyOf", "allOf", "oneOf"):
        value = one.get(name)
        yield from value if isinstance(value, list) else [value]
    for name in ("properties", "patternProperties"):
        if isinstance(value := one.get(name), dict):
            yield from value.values()


def _followed(schema: Schema, option: Any) -> Any:
    """The same; a reference to an object says so, too: only where it says more than the reference does the compiler
    follow it to prove that one option at most fits."""
    path = option.get("$ref") if isinstance(option, dict) else None
    target = _target(schema, path) if isinstance(path, str) else None
    is_object = isinstance(target, dict) and target.get("type") == "object"
    return {"type": "object", **option} if is_object else option


def _target(schema: Schema, path: str) -> Any:
    """What a reference names: a JSON Pointer (RFC 6901) as the fragment of a URI."""
    if path.rstrip("/") != "#" and not path.startswith("#/"):
        raise GrammarError("'$ref' may refer to a place in the schema only, as '#/$defs/name'")
    found: Any = schema
    for name in unquote(path).rstrip("/").split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise GrammarError("there is nothing where a '$ref' refers to")
    return found


def _check(one: Schema) -> None:
    for name in UNENFORCED:
        if name in one:
            raise GrammarError(f"'{name}' can't be enforced")
    if one.get("nullable") is True:
        raise GrammarError("'nullable' is no keyword of JSON Schema: add \"null\" to 'type'")
    if isinstance(form := one.get("format"), str) and form not in FORMATS:
        raise GrammarError(f"this 'format' can't be enforced; those that can are {', '.join(FORMATS)}")
    multiple = one.get("multipleOf")
    if isinstance(multiple, int | float) and not _is_small(multiple):
        raise GrammarError(f"'multipleOf' may be {MAX_MULTIPLE} at most, counted in its last decimal place")
    patterns = one.get("patternProperties")
    if isinstance(patterns, dict) and len(patterns) > MAX_PATTERNS:
        raise GrammarError(f"'patternProperties' may have {MAX_PATTERNS} patterns at most")


def _is_small(multiple: float) -> bool:
    """Whether it is MAX_MULTIPLE at most as a whole number of its last decimal place: 2.5 is 25."""
    exact = Decimal(str(multiple)).normalize()
    places = -min(int(exact.as_tuple().exponent), 0)
    return abs(exact.scaleb(places)) <= MAX_MULTIPLE
