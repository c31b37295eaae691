"""Calls, results and reasoning in messages reach the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.protocol.tooling import NO_TOOLING, Tooling
from tests.conftest import Serve

CALL: dict[str, Any] = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "so"},
    {"role": "tool", "content": [{"type": "text", "text": "7"}], "tool_call_id": "a", "name": "f"},
    {"role": "user", "content": "and?"},
]


@pytest.mark.parametrize(("path", "n_before"), [("/v1/chat/completions", 0), ("/v1/streams", 0), ("/v1/streams", 1)])
async def test_a_history_with_calls(serve: Serve, path: str, n_before: int) -> None:
    """On every route that takes messages, also with a system message before them."""
    service = await serve()
    body = {"messages": MESSAGES} | ({"system": "Be brief."} if n_before else {})
    async with service.client.post(path, json=body) as response:
        assert response.status in (200, 201)
    (submit,) = service.engine.submitted
    assert submit.messages is not None
    assert [m["content"] for m in submit.messages[n_before:]] == ["hi", "", "7", "and?"]
    assert [m["role"] for m in submit.messages[n_before:]] == ["user", "assistant", "tool", "user"]
    turns = {(i, field): text for i, field, text in submit.tooling.turns}
    assert json.loads(turns.pop((n_before + 1, "tool_calls"))) == [CALL]
    assert turns == {(n_before + 1, "reasoning_content"): "so", (n_before + 2, "tool_call_id"): "a"}


@pytest.mark.parametrize(
    ("message", "turns"),
    [
        ({"reasoning": "so"}, ((0, "reasoning_content", "so"),)),
        ({"reasoning": "", "tool_calls": []}, ()),
        ({"tool_calls": None, "reasoning_content": None}, ()),
    ],
)
async def test_other_forms(serve: Serve, message: dict[str, Any], turns: Any) -> None:
    """vLLM's name for reasoning; and nothing of it is as none of it."""
    service = await serve()
    body = {"messages": [{"role": "assistant", "content": "hi", **message}]}
    async with service.client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
    assert service.engine.submitted[0].tooling == (Tooling(turns=turns) if turns else NO_TOOLING)


async def test_arguments_as_an_object(serve: Serve) -> None:
    """Some clients send arguments as an object instead of its JSON, or none."""
    service = await serve()
    calls = [CALL | {"function": {"name": "f", "arguments": {"x": "é"}}}, {"id": "b", "function": {"name": "g"}}]
    body = {"messages": [{"role": "assistant", "tool_calls": calls}]}
    async with service.client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
    ((_, _, text),) = service.engine.submitted[0].tooling.turns
    assert [call["function"]["arguments"] for call in json.loads(text)] == ['{"x":"é"}', ""]
