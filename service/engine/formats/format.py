"""A format as a value: what stands around reasoning, text and calls, and what the chat template wants of a history.

A call is its literals with a hole between each two; in a spec a hole is its name in « ». The literals are matched
whatever their white space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Value = str | bool | int  # of a template's variable


class Hole(StrEnum):
    """What stands between two literals of a call."""

    NAME = "NAME"
    ID = "ID"
    NUMBER = "NUMBER"  # the call's index
    OBJECT = "OBJECT"  # one JSON object with name and arguments
    JSON = "JSON"  # the arguments as a JSON object
    PARAMETERS = "PARAMETERS"  # a mark around each argument
    PYTHON = "PYTHON"  # k='v', l=[1]
    TAGS = "TAGS"  # a tag around each argument, and around each value in it
    GEMMA = "GEMMA"  # k:<|"|>v<|"|>,l:[1]


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys in an OBJECT. name == arguments == "": its one key is the name, and the value the arguments."""

    name: str = "name"
    arguments: str = "arguments"
    others: Mapping[str, str] = field(default_factory=dict)  # key -> what stands there: "«ID»" or a constant
    order: tuple[str, ...] = ("name", "arguments")

    @property
    def is_keyed(self) -> bool:
        """Whether the name is the key."""
        return not self.name


DEFAULT_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of PARAMETERS: before KEY between VALUE after; gap precedes each but the first."""

    before: str
    between: Mapping[str, str]  # by the value's JSON type, "string" among them
    after: str
    gap: str = ""
    python: frozenset[str] = frozenset()  # JSON types that are written as Python's literals
    has_cdata: bool = False  # strings may be in <![CDATA[ ]]>


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """begin CALL separator CALL end."""

    literals: tuple[str, ...]  # one more than holes
    holes: tuple[Hole, ...]
    begin: str = ""
    separator: str = ""
    end: str = ""
    is_parallel: bool = True  # several calls in an answer
    keys: Keys = DEFAULT_KEYS
    parameter: Parameter | None = None
    also: str = ""  # what a call may begin with instead of its first literal

    @property
    def triggers(self) -> tuple[str, ...]:
        """The texts with which calls may begin; none: a call is JSON that the answer starts with."""
        found = (self.begin + ("" if self.begin.strip() else self.literals[0]), self.literals[0], self.also)
        return tuple(dict.fromkeys(text.strip() for text in found if text.strip()))


def spec(call: str, **others: object) -> Calls:
    """Calls from a call with its holes in it: "<tool_call>\\n«OBJECT»\\n</tool_call>"."""
    parts = re.split(r"«(\w+)»", call)
    return Calls(literals=tuple(parts[::2]), holes=tuple(Hole(p) for p in parts[1::2]), **others)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around reasoning. field: the message's field that the template takes it from; "": none, "parts": a part
    of the content."""

    open: str
    close: str
    field: str = ""
    calls_end_it: bool = False  # the model may call without closing it


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the template wants of a history, and what it can't render."""

    arguments_as_text: bool = False
    empty_content: str | None = ""  # of a message with calls
    id_form: str = "{id}"  # of call ids; {short}: nine letters and digits, {name}, {index}: the call's
    lists_tools: bool = True
    writes_calls: bool = True
    writes_results: bool = True
    takes_system: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """All of it."""

    calls: Calls
    thinking: Thinking | None = None
    switches: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)  # variables that change thinking -> values
    text_open: str = ""  # around text for the user
    text_close: str = ""
    joint: str = ""  # between text and calls
    prefill: str = ""  # how the generation prompt already begins the answer
    is_harmony: bool = False  # channels: see harmony.py
    rendering: Rendering = Rendering()

    def opening(self, prompt: str) -> str:
        """The start of the answer that the prompt already has: a parser gets it before the answer."""
        end = prompt.rstrip()
        for mark in (self.thinking.open if self.thinking else "", self.prefill):
            if mark and end.endswith(mark.strip()):
                return mark
        return ""


HERMES = Format(
    calls=spec("<tool_call>\n«OBJECT»\n</tool_call>"),
    rendering=Rendering(lists_tools=False, writes_calls=False, writes_results=False),
)
