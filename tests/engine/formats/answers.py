"""Answers as the templates write them, and how a parser reads one that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from service.engine.formats.format import Format, Hole
from service.engine.formats.parser import Parser
from service.engine.formats.parts import Part, Whole, whole
from service.engine.formats.probe import Probe, Turn, tool
from tests.engine.formats.templates import template

TEXT = "Let me look: 1 < 2, <i>ok</i> [x] {y} ž🐎."
THOUGHT = 'Think about <x> & "y".\n\nThen call.'
STRING = 'say "hi" \\ there\n  <b>žluť 🐎</b> {a: [1]}  '
ARGUMENTS: dict[str, Any] = {  # by name, as some templates sort them
    "count": 12345678901,
    "deep": {"o": [{"x": "漢字 '\""}, {}], "é<": {"z": ""}},
    "empty": "",
    "list": ["a\nb", {"k<": 'x"y'}, [], 1.5, False],
    "number": -7.25,
    "text": STRING,
    "yes": True,
}
TYPES = {
    "count": "integer",
    "deep": "object",
    "empty": "string",
    "list": "array",
    "number": "number",
    "text": "string",
    "yes": "boolean",
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "qfonea": {"type": "object", "properties": {k: {"type": t} for k, t in TYPES.items()}, "required": list(TYPES)},
    "qftwob": {"type": "object", "properties": {}},
}


def arguments_for(format: Format) -> dict[str, Any]:
    """Those that its notation can tell: in tags an empty value is a text."""
    plain = {"deep": {"o": [{"x": "漢字 '\""}], "é<": {"z": "y"}}, "list": ["a\nb", {"k<": 'x"y'}, 1.5, False]}
    return ARGUMENTS | (plain if Hole.TAGS in format.calls.holes else {})


def marks(format: Format) -> list[str]:
    """Every literal of a format."""
    c, p, t = format.calls, format.calls.parameter, format.thinking
    found = [c.begin, *c.literals, c.separator, c.end, c.also, format.text_open, format.text_close, format.joint]
    found += [p.before, *p.between.values(), p.after] if p else []
    found += [t.open, t.close] if t else []
    return [mark for mark in found if mark]


def answer(
    name: str, format: Format, *, content: str = "", reasoning: str = "", arguments: dict[str, Any] | None = None
) -> Turn:
    """A turn with two calls, the second without arguments, or with the first one only."""
    arguments = arguments_for(format) if arguments is None else arguments
    probe = Probe(template(name))
    probe.tools = [tool("qfonea", TYPES), tool("qftwob", {})]
    probe.arguments_as_text, probe.empty_content = format.rendering.arguments_as_text, format.rendering.empty_content
    given = [arguments, {}] if format.calls.is_parallel else [arguments]
    message: dict[str, Any] = {"content": content or probe.empty_content, "tool_calls": probe.calls(*given)}
    if reasoning and format.thinking and format.thinking.field and not (format.is_harmony and content):
        message[format.thinking.field] = reasoning
    return probe.turn(message)


def read(format: Format, prompt: str, pieces: Iterable[str]) -> list[Part]:
    parser = Parser(format, SCHEMAS, stream="s1", prompt=prompt)
    return [part for piece in pieces for part in parser.push(piece)] + parser.end()


def read_whole(format: Format, prompt: str, pieces: Iterable[str]) -> Whole:
    return whole(read(format, prompt, pieces))


def loaded(said: Whole) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for _, name, arguments in said.calls]
