"""The parameters of how a prompt is read."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.openai_params import TextRequest, refuse_too_long, truncate
from service.api.params import StreamRequest, validate
from service.errors import ContextLengthExceeded, Invalid
from service.protocol.prompting import Prompting

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "Once"}


def prompting(*messages: dict[str, str], **fields: Any) -> Prompting:
    return validate(StreamRequest, {"messages": messages or (USER,), **fields}, strict=False).to_generation().prompting


def test_each_reaches_the_engine() -> None:
    """Under its own name; without any the prompt is read as the chat template has it."""
    assert prompting() == prompting(add_generation_prompt=True, continue_final_message=False) == Prompting()
    assert prompting(add_generation_prompt=False) == Prompting(add_generation_prompt=False)
    assert prompting(add_special_tokens=False) == Prompting(add_special_tokens=False)
    assert prompting(truncate_prompt_tokens=7) == Prompting(truncate_prompt_tokens=7)
    assert prompting(truncate_prompt_tokens=-1) == Prompting(truncate_prompt_tokens=-1)
    assert prompting(cache_prompt=False) == Prompting(cache_prompt=False)
    asked = validate(TextRequest, {"prompt": "x", "add_special_tokens": False}).to_generations()[0]
    assert asked.submit("id", 1, 0.0).prompting == asked.prompting == Prompting(add_special_tokens=False)


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, True),  # llama-server's prefill
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),  # as vLLM requires it
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
        ({"add_generation_prompt": False}, False),
    ],
)
def test_an_assistants_last_message(fields: dict[str, bool], continues: bool) -> None:
    """It is the beginning of the answer, unless the request says what else follows it."""
    assert prompting(USER, ASSISTANT, **fields).continue_final_message == continues


def test_what_cannot_be_continued() -> None:
    """Another's message, or one that the template is to close: an error that names the field."""
    for messages, fields in (([USER], {}), ([USER, ASSISTANT], {"add_generation_prompt": True})):
        with pytest.raises(Invalid) as error:
            prompting(*messages, continue_final_message=True, **fields)
        assert error.value.param == "continue_final_message"


def test_a_prompt_that_is_no_chat_continues_nothing() -> None:
    """There a template's fields have no meaning."""
    body = {"prompt": "x", "continue_final_message": True, "add_generation_prompt": True}
    assert not validate(TextRequest, body).to_generations()[0].prompting.continue_final_message


@pytest.mark.parametrize(
    ("prompt", "n", "left"),
    [
        ([1, 2, 3], 2, [2, 3]),
        ([[1, 2, 3], [4]], 2, [[2, 3], [4]]),
        ([1, 2, 3], 5, [1, 2, 3]),
        (list(range(50)), -1, list(range(41, 50))),
        ([1, 2, 3], None, [1, 2, 3]),
        ([1, 2, 3], 0, [1, 2, 3]),
        ([1, 2, 3], True, [1, 2, 3]),
        ([[1, 2]] * 65, 1, [[1, 2]] * 65),  # too many prompts
        (["a", "b"], 1, ["a", "b"]),
        ("text", 1, "text"),
    ],
)
def test_token_ids_are_truncated_before_they_are_validated(prompt: object, n: object, left: object) -> None:
    """The last ones stay, so that a long list costs no time; what is no list of ids is left for the validation."""
    body = {"prompt": prompt, "truncate_prompt_tokens": n}
    truncate(body, 10)
    assert body["prompt"] == left


def test_more_tokens_than_the_context_has() -> None:
    """A prompt that is still too long is refused."""
    body = {"prompt": [1] * 50, "truncate_prompt_tokens": 10}
    truncate(body, 10)
    with pytest.raises(ContextLengthExceeded):
        refuse_too_long(body, 10)
