"""A Submit's messages with their calls, results and reasoning, and its tools, as values whose texts can be replaced."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.engine.prompts.jinja import TemplateError
from service.protocol.tooling import Tooling

WORDS = frozenset({"role", "type"})  # keys whose values templates compare with words


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat template renders. effort: see Tooling."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    effort: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it has roles and contents only."""
        return not (self.tools or self.effort) and all(len(message) == 2 for message in self.messages)

    def mapped(self, change: Callable[[str], str], but: Collection[str] = ()) -> Conversation:
        """The same with every text changed, in keys and values; but: not the values of these keys."""
        return replace(self, messages=_mapped(self.messages, change, but), tools=_mapped(self.tools, change, but))


def conversation(messages: Sequence[Mapping[str, str]], tooling: Tooling) -> Conversation:
    """A Submit's. Raises TemplateError for a text that is no JSON, or a message that there is not."""
    whole: list[dict[str, Any]] = [dict(message) for message in messages]
    try:
        for index, field, text in tooling.turns:
            whole[index][field] = json.loads(text) if field == "tool_calls" else text
        return Conversation(whole, json.loads(tooling.tools or "[]"), tooling.effort)
    except (ValueError, LookupError, RecursionError) as e:
        raise TemplateError(f"the conversation is not valid: {e!r}") from e


def _mapped(value: Any, change: Callable[[str], str], but: Collection[str]) -> Any:
    match value:
        case str():
            return change(value)
        case Mapping():
            return {
                change(k): v if k in but and isinstance(v, str) else _mapped(v, change, but) for k, v in value.items()
            }
        case list() | tuple():
            return [_mapped(one, change, but) for one in value]
    return value
