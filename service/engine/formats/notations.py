"""Arguments that can be read only as a whole: Python's f(k='v'), Gemma's f{k:<|"|>v<|"|>}, tags in tags. Pure."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.engine.formats import nested_tags
from service.engine.formats.format import Hole
from service.engine.formats.typed import expression

_NAMED = {"true": True, "false": False, "null": None}
_QUOTE = '<|"|>'
_TOKEN = re.compile(r'<\|"\|>(.*?)<\|"\|>|([{}\[\],:])|((?:[^{}\[\],:<]|<(?!\|"\|>))+)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Notation:
    """close: what the arguments end before. end: where they do, from a place on; None: that is yet to come.
    read: a text of them, by their schema; raises ValueError, SyntaxError, IndexError, and what a parser that is out of
    its depth raises."""

    close: str
    end: Callable[[str, int], int | None]
    read: Callable[[str, Mapping[str, Any]], dict[str, Any]]


def _bracket(token: re.Pattern[str], text: str, at: int) -> int | None:
    """Where the bracket is that closes the one before `at`. token: a quoted text, a bracket, or a quote alone."""
    depth = 0
    for found in token.finditer(text, at):
        if found[0] in ("{", "[", "("):
            depth += 1
        elif found[0] in ("}", "]", ")"):
            depth -= 1
            if depth < 0:
                return found.start()
        elif len(found[0]) == 1 or found[0] == _QUOTE:
            break
    return None


def _python(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    call = expression(f"f({text})")
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise ValueError("not only names with values")
    return {str(k.arg): _python_value(k.value) for k in call.keywords}


def _python_value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id) if id in _NAMED:  # JSON's
            return _NAMED[id]
        case ast.List(elements) | ast.Tuple(elements):
            return [_python_value(e) for e in elements]
        case ast.Dict(keys, values):
            return {_key(k): _python_value(v) for k, v in zip(keys, values, strict=True)}
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | None):
        raise ValueError("no JSON value")
    return value


def _key(node: ast.expr | None) -> str:
    key = node and ast.literal_eval(node)
    if not isinstance(key, str):
        raise ValueError("a key is no text")
    return key


def _gemma(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    tokens = list(_TOKEN.finditer(text + "}"))
    value, rest = _members(tokens, 0)
    if rest != len(tokens):
        raise ValueError("text behind the arguments")
    return value


def _members(tokens: list[re.Match[str]], at: int) -> tuple[dict[str, Any], int]:
    """KEY:VALUE, ... up to and with "}"; and where what follows begins."""
    found: dict[str, Any] = {}
    while tokens[at][2] != "}":
        key, colon = tokens[at], tokens[at + 1]
        if colon[2] != ":":
            raise ValueError("a key without a value")
        found[key[0].strip() if key[1] is None else key[1]], at = _value(tokens, at + 2)
        at += tokens[at][2] == ","
    return found, at + 1


def _value(tokens: list[re.Match[str]], at: int) -> tuple[Any, int]:
    token = tokens[at]
    if token[1] is not None:
        return token[1], at + 1
    if token[2] == "{":
        return _members(tokens, at + 1)
    if token[2] == "[":
        return _elements(tokens, at + 1)
    if token[2] is not None:
        raise ValueError("a value is missing")
    return _plain(token[0].strip()), at + 1


def _elements(tokens: list[re.Match[str]], at: int) -> tuple[list[Any], int]:
    found = []
    while tokens[at][2] != "]":
        value, at = _value(tokens, at)
        found.append(value)
        at += tokens[at][2] == ","
    return found, at + 1


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


_PYTHON = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[(){}\[\]'\"]", re.DOTALL)
_GEMMA = re.compile(r'<\|"\|>.*?<\|"\|>|[{}\[\]]|<\|"\|>', re.DOTALL)
NOTATIONS = {
    Hole.PYTHON: Notation(")", partial(_bracket, _PYTHON), _python),
    Hole.GEMMA: Notation("}", partial(_bracket, _GEMMA), _gemma),
    Hole.TAGS: Notation(nested_tags.CLOSE, nested_tags.end, nested_tags.read),
}
