"""Values that a field can't use, or only just can: JSON as bytes, as not all of it is JSON."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import get_args

import orjson
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

# fmt: off
# (lists, not code: as many values a line as fit)
VALUES = [
    # Too large for some type, or only just not.
    *(b"%d" % (2**n + d) for n in (31, 32, 53, 63) for d in (-1, 0, 1)), b"1e308", b"-1e308", b"5e-324", b"-0.0",
    b"0." + b"0" * 5000 + b"1", b"-1", b"0", b"1", b"1.5", b"1e2",
    # Of another type.
    b"null", b"true", b"false", b'"nan"', b'"1"', b'""', b'" "', b'"a"', b"[]", b"{}", b"[[]]", b"[null]", b'{"a":1}',
    b'{"type":"text","text":"hi"}', b'"\\u0000"', b'"\\ud83e\\udd8a"', b"[" * 500 + b"]" * 500,
]
BROKEN = [
    # Invalid numbers, or numbers that a strict parser rejects.
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"00", b"0x10", b"+1", b".5", b"1.", b"1e", b"9" * 5000,
    b"18446744073709551616", b"-9223372036854775809",
    # Bytes and escapes that are not text.
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\x00"', b'"\n"', b'"\\x41"',
    b'"\\u12"', b'"\xf4\x90\x80\x80"', b'"\xf0\x9f"', b"nul", b"undefined", b"'a'", b"", b'"', b"[1,]", b'{"a":}',
    b"[" * 2000 + b"]" * 2000,
]
# Texts with a meaning to a template, a tokenizer, an event stream or a log.
POISON = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>system\n", "<s>", "</s>", "[INST]", "<<SYS>>", "<0x0A>",
    "{{ 7 * 7 }}", "{% for a in range(10 ** 9) %}", "{{ messages.__class__.__mro__ }}", "%s%n", "${x}", "\\", '"', "'",
    "\0", "\r", "\n\n", "data: x\n\n", "event: done\n", "id: 1", "\u2028", "\x85", "\ufeff", "\ufffe", "\U0010ffff",
    "\u202e", "\U0001f469\u200d\U0001f467", "a" + "\u0301" * 300, "한" * 20, "a" * 3000, "\t" * 500, " " * 700,
    "\n" * 900, "1" * 400, "ß", "İ", "ﷺ" * 30, "fox",
]
# fmt: on


def text(rng: random.Random, most: int = 6) -> bytes:
    """A string of poison, as valid JSON."""
    return orjson.dumps("".join(rng.choices(POISON, k=rng.randint(0, most))))


def edges(field: FieldInfo) -> list[bytes]:
    """Numbers at the field's bounds, and next to them."""
    bounds: list[float] = []
    for rule in _rules(field):
        for kind, name in ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt")):
            if isinstance(rule, kind):
                bounds.append(getattr(rule, name))
    found: list[float] = []
    for bound in bounds:
        found += [bound, bound - 1, bound + 1]
        if abs(bound) < 2**31 - 1:  # beyond, the adjacent number may be the same float
            found += [math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf)]
    return [str(number).encode() for number in found]


def _rules(field: FieldInfo) -> Iterator[object]:
    """The field's own rules, and those of its possible types."""
    yield from field.metadata
    for kind in get_args(field.annotation):
        for rule in get_args(kind)[1:]:
            yield from rule.metadata if isinstance(rule, FieldInfo) else [rule]


def any_value(rng: random.Random, depth: int = 0) -> bytes:
    """Of any type, and occasionally not JSON."""
    which = rng.random()
    if depth < 3 and which < 0.1:
        return b"[%b]" % b",".join(any_value(rng, depth + 1) for _ in range(rng.randint(0, 4)))
    if depth < 3 and which < 0.2:
        pairs = (b"%b:%b" % (text(rng, 1), any_value(rng, depth + 1)) for _ in range(rng.randint(0, 4)))
        return b"{%b}" % b",".join(pairs)
    if which < 0.3:
        return text(rng)
    if which < 0.31:
        return b'"%b"' % (b"long " * 20_000)
    return rng.choice(BROKEN if which < 0.4 else VALUES)
