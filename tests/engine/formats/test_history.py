"""Conversations with tools as each template wants them."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from jinja2.sandbox import SandboxedEnvironment

from service.engine.formats.format import HERMES
from service.engine.formats.history import for_template
from service.engine.formats.probe import tool, tool_values
from tests.engine.formats.templates import NAMES, format_for, template

TOOLS = [tool("qfonea", {"place": "string"}), tool("qftwob", {"n": "integer"})]
CALLS: list[dict[str, Any]] = [
    {"id": "call_1", "type": "function", "function": {"name": "qfonea", "arguments": '{"place": "Zürich <x>"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "qftwob", "arguments": '{"n": 71}'}},
]
HISTORY: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Which weather?"},
    {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "content": "warm", "tool_call_id": "call_1"},
    {"role": "tool", "content": "cold", "tool_call_id": "call_2"},
    {"role": "assistant", "content": "Both."},
    {"role": "user", "content": "Thanks"},
]


def rendered(name: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    given, listed = for_template(format_for(name), messages, tools)
    return template(name).fill(given, **(tool_values(template(name), listed) if listed else {}))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_conversation_is_lost(name: str) -> None:
    """Every template renders tools, calls, results and texts, whatever it knows of tools."""
    takes_system = format_for(name).rendering.takes_system
    text = rendered(name, HISTORY if takes_system else HISTORY[1:], TOOLS)
    for word in ("qfonea", "qftwob", "place", "Zürich <x>", "71", "warm", "cold", "Which weather?", "Both.", "Thanks"):
        assert word in text or json.dumps(word)[1:-1] in text, word  # Reka's template escapes
    assert "Be brief." in text or not takes_system


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_without_tools_is_the_templates_own(name: str) -> None:
    """Without tools nothing is added or changed."""
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "?"},
    ]
    assert rendered(name, messages, []) == template(name).fill(messages)


PLAIN = [
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "GLM-4.6",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "meetkai-functionary-medium-v3.2",
]


@pytest.mark.parametrize("name", PLAIN)
def test_the_reference_rendering(name: str) -> None:
    """A template gets what it was written for: arguments as an object or as text, ids in its form, contents as text."""
    r = format_for(name).rendering
    is_short = r.id_form == "{short}"
    ids = {id: hashlib.sha256(id.encode()).hexdigest()[:9] if is_short else id for id in ("call_1", "call_2")}
    calls: list[dict[str, Any]] = copy.deepcopy(CALLS)
    for call in calls:
        call["id"] = ids[call["id"]]
        if not r.arguments_as_text:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    shaped = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which weather?"},
        {"role": "assistant", "content": r.empty_content, "reasoning_content": "I look.", "tool_calls": calls},
        {"role": "tool", "content": "warm", "tool_call_id": ids["call_1"], "name": "qfonea"},
        {"role": "tool", "content": "cold", "tool_call_id": ids["call_2"], "name": "qftwob"},
        {"role": "assistant", "content": "Both."},
        {"role": "user", "content": "Thanks"},
    ]
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals["strftime_now"] = lambda form: "02 Jan 2025"
    expected = environment.from_string(template(name).source).render(
        messages=shaped, tools=TOOLS, add_generation_prompt=True, bos_token="<BOS>", eos_token="<EOS>"
    )
    assert rendered(name, HISTORY, TOOLS) == expected


def test_a_model_that_calls_once_a_turn() -> None:
    """Several calls of a turn become a turn each, with the result behind it."""
    messages, _ = for_template(format_for("openai-gpt-oss-120b"), HISTORY, TOOLS)
    assert [m["role"] for m in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert [m.get("thinking") for m in messages if m.get("tool_calls")] == ["I look.", None]
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["warm", "cold"]


def test_ids_that_a_model_knows_calls_by() -> None:
    """Kimi K2 gets its own ids, whatever the client's are."""
    assert "## Return of functions.qftwob:1" in rendered("moonshotai-Kimi-K2", HISTORY, TOOLS)


def test_a_template_without_tools() -> None:
    """The tools are described in the system message, calls are text, and results are one user turn."""
    messages, listed = for_template(HERMES, HISTORY, TOOLS)
    assert listed == []
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert json.dumps(TOOLS[0]) in messages[0]["content"] and messages[0]["content"].endswith("\n\nBe brief.")
    call = '<tool_call>\n{"name": "qfonea", "arguments": {"place": "Zürich <x>"}}\n</tool_call>'
    assert messages[2]["content"].startswith(call)
    assert messages[3]["content"] == "<tool_response>\nwarm\n</tool_response>\n<tool_response>\ncold\n</tool_response>"


@pytest.mark.parametrize("arguments", ["", "{", "[]", '"x"', "null"])
def test_arguments_that_are_no_object(arguments: str) -> None:
    """A call that was cut off has none."""
    call = {"id": "a", "type": "function", "function": {"name": "qfonea", "arguments": arguments}}
    (message,), _ = for_template(
        format_for("Qwen3-Coder"), [{"role": "assistant", "content": "", "tool_calls": [call]}], []
    )
    assert message["tool_calls"][0]["function"]["arguments"] == {}


def test_a_tool_of_a_name_alone() -> None:
    """Templates read a tool's description and parameters without asking whether it has any."""
    _, (listed,) = for_template(format_for("Qwen3-Coder"), [], [{"type": "function", "function": {"name": "f"}}])
    assert listed["function"] == {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
