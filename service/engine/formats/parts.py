"""What an answer consists of, as values: a parser yields them in order, each as soon as its text is certain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model writes before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallOpened:
    """A call begins. index: 0 for the answer's first."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; all of them together are one JSON object, unless the answer was cut off."""

    index: int
    text: str


Part = Content | Reasoning | CallOpened | CallArguments


@dataclass(slots=True)
class Whole:
    """An answer put together. calls: (id, name, arguments as JSON) of each."""

    reasoning: str
    content: str
    calls: list[tuple[str, str, str]]


def whole(parts: Iterable[Part]) -> Whole:
    """All parts of an answer as one value."""
    said = Whole("", "", [])
    for part in parts:
        match part:
            case Content(text):
                said.content += text
            case Reasoning(text):
                said.reasoning += text
            case CallOpened(_, id, name):
                said.calls.append((id, name, ""))
            case CallArguments(index, text):
                id, name, so_far = said.calls[index]
                said.calls[index] = (id, name, so_far + text)
    return said


def call_id(stream: str, index: int) -> str:
    """The id of a stream's call: a parser that is fed the same text again, after an engine's death, gives the same."""
    return "call_" + hashlib.sha256(f"{stream}/{index}".encode()).hexdigest()[:24]
