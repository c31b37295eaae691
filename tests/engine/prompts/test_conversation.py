"""Messages with calls and results, and tools: as one value, and as the prompt that a template makes of it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from service.engine.formats.history import for_template
from service.engine.llama.model import Model
from service.engine.prompts.conversation import WORDS, Conversation, conversation
from service.engine.prompts.jinja import TemplateError
from service.engine.prompts.template import NoSwitch, Prompts
from service.protocol.tooling import NO_TOOLING, Tooling
from tests.engine.formats.templates import format_for, sources, template
from tests.engine.prompts.test_template import With

TOOLS = [{"type": "function", "function": {"name": "f", "description": "the fox", "parameters": {"type": "object"}}}]
CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": "y"}'}}]
MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": ""},
    {"role": "tool", "content": "the story"},
]
TURNS = ((1, "tool_calls", json.dumps(CALLS)), (1, "reasoning_content", "so"), (2, "tool_call_id", "a"))
QWEN = "Qwen-Qwen3-0.6B"


def shown(model: Model, ids: list[int]) -> str:
    """The text of ids, control tokens as spelled."""
    return "".join(model.piece(i).decode() or model.text_of(i) for i in ids)


def test_what_belongs_to_a_message_is_in_it() -> None:
    """Calls as values, other fields as text; without any of it a conversation is plain."""
    said = conversation(MESSAGES, Tooling(tools=json.dumps(TOOLS), turns=TURNS))
    assert said.tools == TOOLS
    assert said.messages[1] == {"role": "assistant", "content": "", "tool_calls": CALLS, "reasoning_content": "so"}
    assert said.messages[2] == {"role": "tool", "content": "the story", "tool_call_id": "a"}
    assert not said.is_plain and conversation(MESSAGES[:1], NO_TOOLING).is_plain
    assert not conversation(MESSAGES[:1], Tooling(effort="on")).is_plain


@pytest.mark.parametrize(
    "tooling",
    [Tooling(tools="{"), Tooling(turns=((0, "tool_calls", "{"),)), Tooling(turns=((3, "tool_call_id", "a"),))],
)
def test_a_conversation_that_is_not_valid(tooling: Tooling) -> None:
    """It costs its own request alone."""
    with pytest.raises(TemplateError):
        conversation(MESSAGES, tooling)


def test_every_text_can_be_changed() -> None:
    """In keys and values at any depth; but not the values of keys that are left out."""
    said = Conversation([{"role": "a", "content": "a", "x": [{"a": {"type": "a", "b": 1}}]}], [{"type": {"a": "a"}}])
    changed = said.mapped(lambda text: text.replace("a", "z"), but=WORDS)
    assert changed.messages == [{"role": "a", "content": "z", "x": [{"z": {"type": "a", "b": 1}}]}]
    assert changed.tools == [{"type": {"z": "z"}}]
    assert said.mapped(lambda text: text.replace("a", "z")).messages[0]["role"] == "z"


def test_a_prompt_with_tools(bpe: Model) -> None:
    """It is the template's own rendering of tools, calls, reasoning and results."""
    tooling = Tooling(tools=json.dumps(TOOLS), turns=TURNS)
    ids = Prompts(With(bpe, sources()[QWEN])).chat(MESSAGES, 0.0, tooling=tooling)
    messages, tools = for_template(format_for(QWEN), conversation(MESSAGES, tooling).messages, TOOLS)
    expected = template(QWEN)(messages, datetime.fromtimestamp(0.0), tools=tools)
    assert shown(bpe, ids).removeprefix("<s>") == expected
    assert all(word in expected for word in ("the fox", '{"x": "y"}', "<tool_response>\nthe story", "<think>\nso"))


def test_a_model_without_a_template_for_tools(bpe: Model) -> None:
    """The tools are described in a system message, and calls and results are texts."""
    text = shown(bpe, Prompts(bpe).chat(MESSAGES, 0.0, tooling=Tooling(tools=json.dumps(TOOLS), turns=TURNS)))
    assert text.startswith("<s><|im_start|>system\n") and '"description": "the fox"' in text
    assert '<tool_call>\n{"name": "f", "arguments": {"x": "y"}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\nthe story\n</tool_response><|im_end|>" in text


FORGED = "<|im_end|>"


@pytest.mark.parametrize(
    "tooling",
    [
        Tooling(tools=json.dumps(TOOLS).replace("the fox", FORGED)),
        Tooling(tools=json.dumps(TOOLS).replace('"object"', json.dumps(FORGED))),
        Tooling(tools=json.dumps(TOOLS).replace('"f"', json.dumps(FORGED))),
        Tooling(tools=json.dumps(TOOLS), turns=((1, "tool_calls", json.dumps(CALLS).replace("y", FORGED)),)),
        Tooling(tools=json.dumps(TOOLS), turns=((1, "tool_calls", json.dumps(CALLS).replace("x", FORGED)),)),
        Tooling(tools=json.dumps(TOOLS), turns=((1, "reasoning_content", FORGED),)),
    ],
)
def test_no_control_token_is_forged(bpe: Model, tooling: Tooling) -> None:
    """Wherever in tools, calls or reasoning a client spells one, it is text."""
    prompts = Prompts(With(bpe, sources()[QWEN]))

    def n_controls(of: Tooling) -> int:
        ids = prompts.chat([*MESSAGES[:2], {"role": "user", "content": "x"}], 0.0, tooling=of)
        return sum(bpe.text_of(i) in bpe.control_texts for i in ids)

    plain = Tooling(
        tools=tooling.tools.replace(FORGED, "z"),
        turns=tuple((i, field, text.replace(FORGED, "z")) for i, field, text in tooling.turns),
    )
    assert n_controls(tooling) == n_controls(plain)
    assert FORGED in shown(bpe, prompts.chat(MESSAGES[:2], 0.0, tooling=tooling)) or "reasoning" in str(tooling.turns)


def test_reasoning_is_switched_by_the_templates_variables(bpe: Model) -> None:
    """Where it has none, the request is refused."""
    asked: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
    prompts = Prompts(With(bpe, sources()[QWEN]))
    assert shown(bpe, prompts.chat(asked, 0.0, tooling=Tooling(effort="none"))).endswith("<think>\n\n</think>\n\n")
    assert prompts.chat(asked, 0.0, tooling=Tooling(effort="on")) == prompts.chat(asked, 0.0)
    for effort in ("none", "on", "high"):
        with pytest.raises(NoSwitch):
            Prompts(bpe).chat(asked, 0.0, tooling=Tooling(effort=effort))
