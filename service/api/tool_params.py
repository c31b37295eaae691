"""What messages hold of calls, results and reasoning, by OpenAI's names, and how a Submit carries it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Protocol

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from service.errors import Invalid
from service.protocol.tooling import Tooling

MAX_CALLS = 128  # of one message


def _as_text(value: object) -> object:
    """Arguments as JSON text: some clients send the object."""
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


CallId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]  # OpenAI's, and dots


class FunctionCall(BaseModel):
    model_config = ConfigDict(strict=True)

    name: FunctionName
    arguments: Annotated[str, BeforeValidator(_as_text)] = ""


class ToolCall(BaseModel):
    model_config = ConfigDict(strict=True)

    id: CallId
    type: Literal["function"] = "function"
    function: FunctionCall


class Turn(BaseModel):
    """What a message may hold in addition to its role and content."""

    model_config = ConfigDict(strict=True)

    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_CALLS)
    tool_call_id: CallId | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # vLLM's name for it

    @model_validator(mode="before")
    @classmethod
    def _fitting(cls, value: object) -> object:
        """A call needs no text, a result names its call, and nobody else has either."""
        if not isinstance(value, dict):
            return value
        role = value.get("role")
        if role == "tool" and value.get("tool_call_id") is None:
            raise ValueError("a tool's message needs a 'tool_call_id'")
        if value.get("tool_calls") and role != "assistant":
            raise ValueError("only the assistant's messages have 'tool_calls'")
        if value.get("tool_calls") and value.get("content") is None:
            return {**value, "content": ""}
        return value

    def fields(self) -> Iterator[tuple[str, str]]:
        """Each with its text, as Tooling.turns has them."""
        if self.tool_calls:
            yield "tool_calls", orjson.dumps([call.model_dump() for call in self.tool_calls]).decode()
        if self.tool_call_id is not None:
            yield "tool_call_id", self.tool_call_id
        if reasoning := self.reasoning_content or self.reasoning:
            yield "reasoning_content", reasoning


class _Message(Protocol):
    @property
    def role(self) -> str: ...
    @property
    def tool_calls(self) -> list[ToolCall] | None: ...
    @property
    def tool_call_id(self) -> str | None: ...
    def fields(self) -> Iterator[tuple[str, str]]: ...


def tooling_of(messages: Sequence[_Message], n_before: int = 0, effort: str = "") -> Tooling:
    """What these messages hold, n_before others before them. effort: see Tooling. Raises Invalid for a result of no
    call."""
    known: set[str] = set()
    for i, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in known:
            raise Invalid(f"messages.{i}.tool_call_id: no call in the messages before has this id.", param="messages")
        known.update(call.id for call in message.tool_calls or ())
    turns = ((i, name, text) for i, message in enumerate(messages, n_before) for name, text in message.fields())
    return Tooling(turns=tuple(turns), effort=effort)
