"""How a template marks reasoning, and which of its variables switch it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from service.engine.formats.format import Thinking, Value
from service.engine.formats.probe import TEXT, THOUGHT, Probe, Turn

FIELDS = ("reasoning_content", "thinking", "reasoning")  # of a message, where templates look for it
PARTS = "parts"
VALUES: tuple[Value, ...] = (True, False, "low", "medium", "high", "none")
_SWITCH = re.compile("think|reason|effort")
_LAST_TAG = re.compile(r"(<[^<>]*>|\[[^\[\]]*\])\s*$")
_PROMPT_TAG = re.compile(r"<(\w+)>\s*(</\1>)?\s*$")

Switches = Mapping[str, tuple[Value, ...]]


def learn_switches(probe: Probe) -> Switches:
    """The variables that change a prompt, each with the values that do."""
    base, found = probe.ask(), {}
    for name in sorted(n for n in probe.template.variables if _SWITCH.search(n)):
        values = tuple(value for value in VALUES if _changes(probe, base, name, value))
        if values:
            found[name] = values
    return found


def _changes(probe: Probe, base: str, name: str, value: Value) -> bool:
    with suppress(Exception):  # a value that the template refuses
        return probe.ask(**{name: value}) != base
    return False


def learn_thinking(probe: Probe, trigger: str, switches: Switches) -> Thinking | None:
    """The marks around reasoning; None: the template has none. trigger: what a call begins with."""
    tries: list[dict[str, Value]] = [{}, *({name: v} for name, values in switches.items() for v in values)]
    for field, message in _messages(probe):
        for values in tries:
            with suppress(Exception):
                turn = probe.turn(message, **values)
                if found := _marks(turn, trigger):
                    return Thinking(*found, field)
    return _from_prompt(probe, tries)


def _messages(probe: Probe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Turns with reasoning, in every form that templates take it."""
    for more in ({}, {"tool_calls": probe.calls({"qk1": "qVAL"})}):
        for field in FIELDS:
            yield field, {"content": TEXT, field: THOUGHT, **more}
    yield PARTS, {"content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": TEXT}]}


def _marks(turn: Turn, trigger: str) -> tuple[str, str] | None:
    """What is around the reasoning; None: it is not rendered, or as a part's repr."""
    start = turn.text.find(THOUGHT)
    ends = (turn.text.find(TEXT), turn.text.find(trigger or TEXT))
    stop = next((end for end in ends if end > start), -1)
    if not 0 <= start < stop or re.search(r"""['"]type['"]""", turn.text[:stop]):
        return None
    opening = turn.text[:start].strip()
    if not opening and (tag := _LAST_TAG.search(turn.before)):  # the prompt has it
        opening = tag[1]
    return opening, turn.text[start + len(THOUGHT) : stop].strip()


def _from_prompt(probe: Probe, tries: list[dict[str, Value]]) -> Thinking | None:
    """A tag at the end of a prompt, where a history's reasoning is left out."""
    for values in tries:
        with suppress(Exception):
            if tag := _PROMPT_TAG.search(probe.ask(**values)):
                return Thinking(f"<{tag[1]}>", f"</{tag[1]}>")
    return None
