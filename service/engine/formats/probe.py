"""A chat template asked with marked values: what it prints for an assistant's turn is what the model is to write."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

Message = Mapping[str, Any]

# Words that no template contains. Ids are of nine letters and digits, as Mistral's templates demand.
USER, TEXT, THOUGHT, RESULT = "qUSERq", "qTEXTq", "qTHOUGHTq", "qRESULTq"
NAMES, IDS = ("qfonea", "qftwob"), ("qid00001A", "qid00002B")
_TAG = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]+\]")
_MOST_REPEATED = 60  # characters of a turn's header that the prompt ends with and a whole conversation has again


class CannotLearn(Exception):
    """The template does not show what is asked; the message says what."""


class Template(Protocol):
    """What this needs of one."""

    @property
    def eos(self) -> str: ...  # how the vocabulary spells it
    @property
    def variables(self) -> Collection[str]: ...  # names that it reads and does not set
    def fill(self, messages: Sequence[Message], *, opens_answer: bool = True, **values: Any) -> str: ...


class Turn(NamedTuple):
    """An assistant's turn as a template prints it."""

    text: str  # from where the generation prompt ends
    prompt: str
    before: str  # all that precedes the text


class Probe:
    """Renders conversations of one user turn and one assistant turn."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.tools = [tool(name, {"qk1": "string", "qk2": "string"}) for name in NAMES]
        self.arguments_as_text = False
        self.empty_content: str | None = ""

    def render(self, messages: Sequence[Message], *, opens_answer: bool = True, **values: Any) -> str:
        """Raises what the template raises: it is a program."""
        return self.template.fill(
            messages, opens_answer=opens_answer, **tool_values(self.template, self.tools), **values
        )

    def ask(self, **values: Any) -> str:
        """The prompt of a user's turn."""
        return self.render([{"role": "user", "content": USER}], **values)

    def turn(self, message: Message, **values: Any) -> Turn:
        prompt = self.ask(**values)
        messages = [{"role": "user", "content": USER}, {"role": "assistant", **message}]
        whole = self.render(messages, opens_answer=False, **values)
        at = len(prompt) if whole.startswith(prompt) else outside_tag(whole, len(common_start(prompt, whole)), 0)
        if at < len(prompt):  # the prompt ends with more than a turn's header (Command-R+)
            at += next((n for n in range(_MOST_REPEATED, 0, -1) if whole.startswith(prompt[-n:], at)), 0)
        return Turn(whole[at:], prompt, whole[:at])

    def calls(self, *arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {"id": id, "type": "function", "function": {"name": name, "arguments": self._arguments(a)}}
            for name, id, a in zip(NAMES, IDS, arguments, strict=False)
        ]

    def call_turn(self, *arguments: Mapping[str, Any], content: str | None = None) -> str:
        """The text of a turn with a call for each of the arguments."""
        content = self.empty_content if content is None else content
        return self.turn({"content": content, "tool_calls": self.calls(*arguments)}).text

    def _arguments(self, arguments: Mapping[str, Any]) -> Any:
        return json.dumps(arguments, ensure_ascii=False) if self.arguments_as_text else dict(arguments)


def tool(name: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """A tool with a parameter of each type, all required."""
    # Command-R+ asks what an object's other members are.
    more = {"object": {"additionalProperties": {"type": "string"}}}
    properties = {key: {"type": kind, "description": "d", **more.get(kind, {})} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": schema}}


def tool_values(template: Template, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The variables that list tools in this template."""
    as_text = {"functions": json.dumps(tools)} if "functions" in template.variables else {}
    return {"tools": list(tools), **as_text}


def common_start(a: str, b: str) -> str:
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]


def common_end(a: str, b: str) -> str:
    """The longest common end that cuts no tag of either."""
    n = len(common_start(a[::-1], b[::-1]))
    return a[max(outside_tag(a, len(a) - n, 1), len(a) - len(b) + outside_tag(b, len(b) - n, 1)) :]


def outside_tag(text: str, at: int, side: int) -> int:
    """The same place, or the start (0) or end (1) of the tag that it is within."""
    return next((m.span()[side] for m in _TAG.finditer(text) if m.start() < at < m.end()), at)
