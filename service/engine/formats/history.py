"""A conversation with tools as a chat template wants it: what it can't render is written into the texts.

Messages are in the shape of OpenAI's API, contents as text, arguments as JSON text, reasoning as `reasoning_content`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.engine.formats.format import Format
from service.engine.formats.learning_thinking import PARTS
from service.engine.formats.probe import Message
from service.engine.formats.writing import written

_EXAMPLE = ("", "NAME", {"ARGUMENT": "VALUE"})
_TOOLS = (
    "You may call functions to answer. Each is described by a line of JSON:\n<tools>\n{tools}\n</tools>\n"
    "To call functions, write nothing but the calls, each with a function's name and its arguments:\n{example}"
)


def for_template(
    format: Format, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages and the tools to render; no tools: none are listed."""
    whole_tools = [_whole_tool(tool) for tool in tools]
    turns = list(messages if format.calls.is_parallel else _one_call_a_turn(messages))
    ids = _ids(format, turns)
    rendered = [_message(format, message, ids) for message in turns]
    if not format.rendering.writes_results:
        rendered = _joined_results(rendered)
    if whole_tools and not format.rendering.lists_tools:
        return _with_tools_listed(format, rendered, whole_tools), []
    return rendered, whole_tools


def _whole_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """With the keys that templates read without asking."""
    function = tool["function"]
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    known = {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": known}


def _one_call_a_turn(messages: Sequence[Message]) -> Iterator[Message]:
    """A turn of several calls as a turn for each, with its result behind it."""
    messages = list(messages)
    while messages:
        message = messages.pop(0)
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            yield message
            continue
        n_results = next((i for i, m in enumerate(messages) if m["role"] != "tool"), len(messages))
        results, messages = messages[:n_results], messages[n_results:]
        for i, call in enumerate(calls):
            yield {**(message if i == 0 else {"role": "assistant", "content": ""}), "tool_calls": [call]}
            yield from (r for r in results if r.get("tool_call_id") == call["id"])


def _ids(format: Format, messages: Sequence[Message]) -> dict[str, tuple[str, str]]:
    """Call's id -> the id that the template gets, and the function's name."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return {call["id"]: (_id(format, call, i), call["function"]["name"]) for i, call in enumerate(calls)}


def _id(format: Format, call: Mapping[str, Any], index: int) -> str:
    short = hashlib.sha256(call["id"].encode()).hexdigest()[:9]
    return format.rendering.id_form.format(id=call["id"], short=short, name=call["function"]["name"], index=index)


def _message(format: Format, message: Message, ids: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    match message["role"]:
        case "assistant":
            return _assistant(format, message, ids)
        case "tool":
            id, name = ids.get(message.get("tool_call_id", ""), (message.get("tool_call_id", ""), ""))
            return {"role": "tool", "content": message["content"], "tool_call_id": id, "name": name}
        case "developer":
            return {"role": "system", "content": message["content"]}
    return {"role": message["role"], "content": message["content"]}


def _assistant(format: Format, message: Message, ids: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    content, calls = message.get("content") or "", message.get("tool_calls") or ()
    turn: dict[str, Any] = {"role": "assistant", "content": content}
    if calls and format.rendering.writes_calls:
        turn |= {"content": content or format.rendering.empty_content, "tool_calls": _calls(format, calls, ids)}
    elif calls:
        turn["content"] = content + written(format.calls, [_parsed(call, ids) for call in calls])
    field, reasoning = format.thinking.field if format.thinking else "", message.get("reasoning_content")
    if reasoning and field == PARTS:
        turn["content"] = [{"type": "thinking", "thinking": reasoning}, {"type": "text", "text": turn["content"]}]
    elif reasoning and field and not (format.is_harmony and calls and content):  # gpt-oss takes one of them
        turn[field] = reasoning
    return turn


def _calls(format: Format, calls: Sequence[Message], ids: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for call in calls:
        id, name, arguments = _parsed(call, ids)
        given = json.dumps(arguments, ensure_ascii=False) if format.rendering.arguments_as_text else arguments
        found.append({"id": id, "type": "function", "function": {"name": name, "arguments": given}})
    return found


def _parsed(call: Message, ids: Mapping[str, tuple[str, str]]) -> tuple[str, str, dict[str, Any]]:
    """Id, name and arguments; none for a text that is no JSON object: a model may have written it, cut off."""
    id, name = ids[call["id"]]
    try:
        arguments = json.loads(call["function"].get("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = {}
    return id, name, arguments if isinstance(arguments, dict) else {}


def _joined_results(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as one user turn each run of them: many templates want user and assistant in turn."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            found.append(message)
            continue
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        if found and found[-1].get("is_result"):
            found[-1]["content"] += "\n" + text
        else:
            found.append({"role": "user", "content": text, "is_result": True})
    return [{k: v for k, v in message.items() if k != "is_result"} for message in found]


def _with_tools_listed(
    format: Format, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The tools in the system message, or in the first turn where the template takes no system message."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = _TOOLS.format(tools=lines, example=written(format.calls, [_EXAMPLE]))
    first = messages[0] if messages else {"role": "user", "content": ""}
    if first["role"] == "system" or not format.rendering.takes_system:
        return [{**first, "content": f"{text}\n\n{first['content']}".strip()}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
