"""The fields that ask for log-probabilities, and their errors."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.openai_params import ChatRequest, TextRequest
from service.api.params import StreamRequest, parse_query, validate
from service.errors import Invalid

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": None, "top_logprobs": None}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
        ({"top_logprobs": 5.0, "logprobs": True}, 5),
    ],
)
def test_of_chats_and_streams(fields: dict[str, Any], expected: int | None) -> None:
    """A flag, and how many of the likeliest tokens."""
    assert validate(ChatRequest, CHAT | fields).to_generations()[0].logprobs == expected
    assert validate(StreamRequest, {"prompt": "x", **fields}).to_generations()[0].logprobs == expected


def test_of_a_query() -> None:
    """As of a body."""
    query = parse_query("prompt=x&logprobs=true&top_logprobs=3")
    assert validate(StreamRequest, query, strict=False).to_generations()[0].logprobs == 3


@pytest.mark.parametrize("value", [None, False, 0, 3, 20])
def test_of_completions(value: Any) -> None:
    """A number; false is null."""
    wanted = validate(TextRequest, {"prompt": "x", "logprobs": value}).to_generations()[0].logprobs
    assert wanted == (None if value is False else value)


WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (ChatRequest, {"logprobs": 3}, "logprobs: it must be true or false."),
    (ChatRequest, {"logprobs": True, "top_logprobs": 21}, "top_logprobs: it must be 20 or less."),
    (ChatRequest, {"logprobs": True, "top_logprobs": -1}, "top_logprobs: it must be 0 or more."),
    (ChatRequest, {"logprobs": True, "top_logprobs": True}, "top_logprobs: it must be an integer."),
    (ChatRequest, {"top_logprobs": 2}, "top_logprobs: it requires 'logprobs' to be true."),
    (ChatRequest, {"logprobs": "x", "top_logprobs": 2}, "logprobs: it must be true or false."),
    (TextRequest, {"logprobs": True}, "logprobs: it must be an integer."),
    (TextRequest, {"logprobs": 21}, "logprobs: it must be 20 or less."),
    (TextRequest, {"logprobs": -1}, "logprobs: it must be 0 or more."),
    (
        TextRequest,
        {"logprobs": 2, "top_logprobs": 2},
        "top_logprobs: it belongs to chat completions; here the number is in 'logprobs'.",
    ),
]


@pytest.mark.parametrize(("schema", "fields", "message"), WRONG)
def test_invalid_values(schema: type[Any], fields: dict[str, Any], message: str) -> None:
    """The error names the field and says what it takes."""
    with pytest.raises(Invalid) as refused:
        validate(schema, {"prompt": "x", **CHAT, **fields} if schema is TextRequest else CHAT | fields)
    assert (refused.value.message, refused.value.param) == (message, message.partition(":")[0])
