"""One call of one tool as a rule of a Lark grammar: its marks as literals, its arguments by their JSON schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from service.engine.formats.format import Calls, Hole, Parameter
from service.engine.formats.json_types import types_of
from service.engine.formats.lark_rules import SPACE, Rules, json_by
from service.engine.formats.nested_tags import MARK

Schema = Mapping[str, Any]
Write = Callable[[str, Schema, Schema], list[str]]  # key, its schema, the object's -> texts and expressions
_WORDS = {Hole.ID: "/[a-zA-Z0-9]{9}/", Hole.NUMBER: "/[0-9]{1,3}/"}
PYTHON_BOOLEAN = '( "True" | "False" | "true" | "false" )'  # models write either
_QUOTE = '<|"|>'  # of a string in Gemma's notation


class Expression(str):
    """Lark, as opposed to a text that is to stand there."""


class CallRules:
    """The rules of one format."""

    def __init__(self, calls: Calls, rules: Rules, without: str = "") -> None:
        """without: the start of each call that is read already."""
        self._calls, self._rules, self._without = calls, rules, without
        self._gemma_value = ""

    def call(self, name: str, schema: Schema) -> str:
        """The name of the rule of a tool's call. schema: of its arguments."""
        schema = {"type": "object", **schema}
        parts = [self._calls.literals[0].removeprefix(self._without)]
        for hole, literal in zip(self._calls.holes, self._calls.literals[1:], strict=True):
            parts += [*self._hole(hole, name, schema), literal]
        return self._rules.add("call", self._joined(parts))

    def _joined(self, parts: Iterable[str]) -> str:
        """Adjacent texts as one literal."""
        found, text = [], ""
        for part in parts:
            if isinstance(part, Expression):
                found += [self._rules.literal(text), str(part)]
                text = ""
            else:
                text += part.lstrip() if not text and found[-1:] == [SPACE] else part  # which has taken it
        return " ".join(filter(None, [*found, self._rules.literal(text)]))

    def _hole(self, hole: Hole, name: str, schema: Schema) -> list[str]:
        match hole:
            case Hole.NAME:
                return [name]
            case Hole.JSON:
                return [Expression(json_by(schema))]
            case Hole.OBJECT:
                return self._object(name, schema)
            case Hole.PARAMETERS:
                return [Expression(self._each(schema, self._marked, self._parameter.gap) or SPACE)]
            case Hole.PYTHON:
                return [Expression(self._each(schema, _python, ", "))]
            case Hole.TAGS:
                return [Expression(self._each(schema, self._tagged, "") or SPACE)]
            case Hole.GEMMA:
                return [Expression(self._each(schema, self._gemma, ","))]
        return [Expression(_WORDS[hole])]

    @property
    def _parameter(self) -> Parameter:
        assert self._calls.parameter is not None
        return self._calls.parameter

    def _object(self, name: str, schema: Schema) -> list[str]:
        """{"name": "f", "arguments": ...} with its keys in the template's order."""
        keys, parts = self._calls.keys, ["{"]
        for key in (name,) if keys.is_keyed else keys.order:
            parts += ["" if parts == ["{"] else ", ", f"{json.dumps(key, ensure_ascii=False)}: "]
            parts += self._member(key, name, schema)
        return [*parts, "}"]

    def _member(self, key: str, name: str, schema: Schema) -> list[str]:
        keys = self._calls.keys
        if keys.is_keyed or key == keys.arguments:
            return [Expression(json_by(schema))]
        if key == keys.name:
            return [json.dumps(name, ensure_ascii=False)]
        constant = keys.others[key]
        if constant == "«ID»" or constant.isdigit():
            return ['"', Expression(_WORDS[Hole.NUMBER if constant.isdigit() else Hole.ID]), '"']
        return [json.dumps(constant)]

    def _each(self, schema: Schema, write: Write, separator: str) -> str:
        """All properties in order, those that are not required or not. Built from the last one, so that the grammar
        grows with their number, and not with its square."""
        required = frozenset(schema.get("required") or ())
        between = self._rules.literal(separator)
        first = rest = ""  # from here on: without a separator before it, and with one
        for key, one in reversed((schema.get("properties") or {}).items()):
            item = self._rules.add(
                "argument", self._joined(write(key, one if isinstance(one, Mapping) else {}, schema))
            )
            from_here = f"{item} {rest}".strip()
            if key in required:
                first, rest = from_here, self._rules.add("rest", f"{between} {from_here}")
            else:
                without = f" | {first}" if first else ""
                first = self._rules.add("first", f"( {from_here}{without} )" + ("" if first else "?"))
                rest = self._rules.add("rest", f"( {between} {item} )? {rest}")
        return first

    def _marked(self, key: str, one: Schema, schema: Schema) -> list[str]:
        p, types = self._parameter, types_of(schema, key)
        if types and "string" not in types:
            lead = p.before + key + p.between[min(types)]
            is_python = types == {"boolean"} <= p.python
            value = PYTHON_BOOLEAN if is_python else json_by(_with_definitions(one, schema))
            return [lead, Expression(value), p.after]
        lead = p.before + key + p.between["string"]
        if choices := _texts(one):
            return [lead, Expression(self._one_of(choices)), p.after]
        return [lead, Expression(self._rules.until(p.after))]

    def _one_of(self, texts: Iterable[str]) -> str:
        return f"( {' | '.join(map(self._rules.literal, texts))} )"

    def _tagged(self, key: str, one: Schema, schema: Schema) -> list[str]:
        types, close = types_of(schema, key), f"{MARK}</{key}>"
        if types == {"object"} and one.get("properties"):
            return [f"{MARK}<{key}>", Expression(self._each(one, self._tagged, "")), close]
        if types == {"array"} and isinstance(one.get("items"), Mapping):
            item = self._tagged("item", one["items"], {"properties": {"item": one["items"]}})
            return [f"{MARK}<{key}>", Expression(f"( {self._joined(item)} )*"), close]
        if types and types <= {"number", "boolean", "null"}:
            return [f"{MARK}<{key}>", Expression(json_by(one)), close]
        return [f"{MARK}<{key}>", Expression(self._rules.until(close))]

    def _gemma(self, key: str, one: Schema, schema: Schema) -> list[str]:
        types = types_of(schema, key)
        if choices := _texts(one):
            return [f"{key}:{_QUOTE}", Expression(self._one_of(choices)), _QUOTE]
        if types == {"string"}:
            return [f"{key}:{_QUOTE}", Expression(self._rules.until(_QUOTE))]
        if types and types <= {"number", "boolean", "null"}:
            return [f"{key}:", Expression(json_by(one))]
        return [f"{key}:", Expression(self._any_gemma())]

    def _any_gemma(self) -> str:
        """Any value in Gemma's notation."""
        if not self._gemma_value:
            text = f"{self._rules.literal(_QUOTE)} {self._rules.until(_QUOTE)}"
            name = self._gemma_value = self._rules.add("value", f"{text} | SCALAR | list | map")
            self._rules.define("SCALAR", '/-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?/ | "true" | "false" | "null"')
            self._rules.define("list", f'"[" ( {name} ( "," {name} )* )? "]"')
            self._rules.define("map", '"{" ( pair ( "," pair )* )? "}"')
            self._rules.define("pair", f'/[^{{}}:,\\[\\]]+/ ":" {name}')
        return self._gemma_value


def _python(key: str, one: Schema, schema: Schema) -> list[str]:
    return [f"{key}=", Expression(json_by(_with_definitions(one, schema)))]


def _with_definitions(one: Schema, schema: Schema) -> Schema:
    """A property's schema with what it may refer to."""
    return {**{key: schema[key] for key in ("$defs", "definitions") if key in schema}, **one}


def _texts(one: Schema) -> list[str]:
    """The texts that a property is limited to; none: it is not."""
    choices = [one["const"]] if "const" in one else one.get("enum") or []
    return choices if all(isinstance(c, str) and c for c in choices) else []
