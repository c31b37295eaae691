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
    assert validate(StreamRequest, {"prompt": "x", **fields}).to_generation().logprobs == expected


def test_of_a_query() -> None:
    """As of a body."""
    query = parse_query("prompt=x&logprobs=true&top_logprobs=3")
    assert validate(StreamRequest, query, strict=False).to_generation().logprobs == 3


@pytest.mark.parametrize("value", [None, False, 0, 3, 20])
def test_of_completions(value: Any) -> None:
    """A number; false is null."""
    wanted = validate(TextRequest, {"prompt": "x", "logprobs": value}).to_generations()[0].logprobs
    assert wanted == (None if value is False else value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (False, None)),
        ({"echo": False, "max_tokens": 5}, (False, 5)),
        ({"echo": True}, (True, None)),
        ({"echo": True, "max_tokens": 1}, (True, 1)),
        ({"echo": True, "max_tokens": 0}, (True, 0)),
        ({"echo": True, "max_tokens": -1}, (True, None)),
    ],
)
def test_echo(fields: dict[str, Any], expected: tuple[bool, int | None]) -> None:
    """Completions may repeat the prompt; then, and only then, they may have no answer."""
    for prompt in ("x", [1, 2]):
        generation = validate(TextRequest, {"prompt": prompt, **fields}).to_generations()[0]
        assert (generation.echo, generation.max_tokens) == expected
    assert validate(StreamRequest, {"prompt": "x", "echo": False}).to_generation().echo is False


def test_no_answer_without_echo() -> None:
    """It is refused by name."""
    with pytest.raises(Invalid, match="0 with 'echo'") as refused:
        validate(TextRequest, {"prompt": "x", "max_tokens": 0}).to_generations()[0]
    assert refused.value.param == "max_tokens"


WRONG: list[tuple[type[Any], dict[str, Any], str]] = [
    (ChatRequest, {"logprobs": 3}, "logprobs: it must be true or false."),
    (ChatRequest, {"logprobs": True, "top_logprobs": 21}, "top_logprobs: it must be 20 or less."),
    (ChatRequest, {"logprobs": True, "top_logprobs": -1}, "top_logprobs: it must be 0 or more."),
    (ChatRequest, {"logprobs": True, "top_logprobs": True}, "top_logprobs: it must be an integer."),
    (ChatRequest, {"top_logprobs": 2}, "top_logprobs: it requires 'logprobs' to be true."),
    (ChatRequest, {"logprobs": "x", "top_logprobs": 2}, "logprobs: it must be true or false."),
    (ChatRequest, {"echo": True}, "echo: only /v1/completions can repeat the prompt."),
    (
        StreamRequest,
        {"echo": 1.5},
        "echo: only /v1/completions can repeat the prompt.",
    ),
    (TextRequest, {"echo": "x"}, "echo: it must be true or false."),
    (TextRequest, {"max_tokens": -2, "echo": True}, "max_tokens: it must be -1 or more."),
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
