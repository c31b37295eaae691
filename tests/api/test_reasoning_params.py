"""The fields that switch reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Serve

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, ""),
        ({"reasoning_effort": None, "chat_template_kwargs": {}, "think": None}, ""),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "none"),
        ({"enable_thinking": True}, "on"),
        ({"enable_thinking": False}, "none"),
        ({"think": False}, "none"),
        ({"think": "low"}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"thinking": True}}, "on"),
        ({"chat_template_kwargs": {"reasoning_effort": "low", "thinking": True}}, "low"),
    ],
)
async def test_the_effort_that_is_asked_for(serve: Serve, fields: dict[str, Any], effort: str) -> None:
    """By any of its names, on every route with a chat template."""
    service = await serve()
    for path in ("/v1/chat/completions", "/v1/streams"):
        async with service.client.post(path, json={**CHAT, **fields}) as response:
            assert response.status in (200, 201)
    assert [submit.tooling.effort for submit in service.engine.submitted] == [effort] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasoning_effort", "very"),
        ("reasoning_effort", 7),
        ("enable_thinking", "no"),
        ("think", 1.5),
        ("think", "very"),
        ("chat_template_kwargs", {"enable_thinking": "no"}),
        ("chat_template_kwargs", {"documents": []}),
        ("chat_template_kwargs", 7),
    ],
)
async def test_what_no_template_can_do(serve: Serve, field: str, value: object) -> None:
    """It is refused, naming the field."""
    service = await serve()
    async with service.client.post("/v1/chat/completions", json={**CHAT, field: value}) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "low"},
        {"think": True},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"thinking": True}},
    ],
)
async def test_a_prompt_without_a_template(serve: Serve, fields: dict[str, Any]) -> None:
    """Nothing switches its reasoning."""
    service = await serve()
    async with service.client.post("/v1/completions", json={"prompt": "hi", **fields}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (400, "unsupported_parameter", next(iter(fields)))
