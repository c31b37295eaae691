"""Which format a model has: a known one, or one learned from its template and read back, or Hermes's with a prompt."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from service.engine.formats.format import HERMES, Format, Hole
from service.engine.formats.known import amended, known
from service.engine.formats.learning import learn, takes_system
from service.engine.formats.learning_thinking import learn_switches, learn_thinking
from service.engine.formats.parser import Parser
from service.engine.formats.parts import whole
from service.engine.formats.probe import CannotLearn, Probe, Template, tool

_TEXTS = ("plain", 'say "hi" \\ there', "žluť 🐎 漢字", "two\nlines", "<b>a & b</b>", "[x] {y}", "42")


def format_of(template: Template, source: str) -> Format:
    """The format for a template, source: its text. The same for the same text."""
    if found := known(source):
        return replace(found, switches=learn_switches(Probe(template)))
    with suppress(CannotLearn):
        found = amended(source, learn(template))
        if reads_back(template, found, random.Random(zlib.crc32(source.encode()))):
            return found
    return _generic(Probe(template))


def reads_back(template: Template, format: Format, chance: random.Random) -> bool:
    """Whether calls that the template writes are read as what they were, with reasoning where it renders that."""
    probe = Probe(template)
    probe.arguments_as_text, probe.empty_content = format.rendering.arguments_as_text, format.rendering.empty_content
    arguments = [_arguments(format, chance) for _ in range(2 if format.calls.is_parallel else 1)]
    probe.tools = [tool(t["function"]["name"], a) for t, a in zip(probe.tools, map(_types, arguments), strict=False)]
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in probe.tools}
    with suppress(Exception):  # what the template raises, or a parser by a format that makes no sense
        turn = probe.turn({"content": probe.empty_content, "tool_calls": probe.calls(*arguments)})
        parser = Parser(format, schemas, prompt=turn.before)
        said = whole(parser.push(turn.text) + parser.end())
        return [(name, json.loads(text)) for _, name, text in said.calls] == list(zip(schemas, arguments, strict=False))
    return False


def _arguments(format: Format, chance: random.Random) -> dict[str, Any]:
    """One of each type, in any order. A template that writes Python escapes nothing."""
    text = "plain" if Hole.PYTHON in format.calls.holes else chance.choice(_TEXTS)
    values = [
        text,
        chance.randint(-99, 99),
        chance.random() * 100,
        True,
        False,
        [text, 1, {"k": None}],
        {"k": [text]},
        {},
    ]
    chance.shuffle(values)
    return {f"q{chance.randrange(10**6)}z{i}": value for i, value in enumerate(values)}


def _types(arguments: Mapping[str, Any]) -> dict[str, str]:
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
    return {key: kinds[type(value)] for key, value in arguments.items()}


def _generic(probe: Probe) -> Format:
    """Hermes's calls, with the reasoning that the template shows."""
    probe.tools = []
    switches = learn_switches(probe)
    thinking = learn_thinking(probe, HERMES.calls.literals[0].strip(), switches)
    rendering = replace(HERMES.rendering, takes_system=takes_system(probe))
    return replace(HERMES, switches=switches, thinking=thinking, rendering=rendering)
