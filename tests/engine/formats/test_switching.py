"""Which of a template's variables switch its reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.formats.switching import switched
from tests.engine.formats.templates import format_for, template

ASKED = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("switches", "wish", "expected"),
    [
        ({}, {}, {}),
        ({}, {"thinks": False}, None),
        ({}, {"effort": "high"}, None),
        ({"enable_thinking": (False,)}, {"thinks": False}, {"enable_thinking": False}),
        ({"enable_thinking": (False,)}, {"thinks": True}, {"enable_thinking": True}),
        ({"enable_thinking": (False,)}, {"effort": "none"}, {"enable_thinking": False}),
        ({"enable_thinking": (False,)}, {"effort": "low"}, {"enable_thinking": True}),
        ({"reasoning_effort": ("low", "high")}, {"effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": ("low", "high")}, {"effort": "medium"}, None),
        ({"reasoning_effort": ("low", "none")}, {"thinks": False}, {"reasoning_effort": "none"}),
        (
            {"thinking": (True,), "effort": ("low",)},
            {"thinks": True, "effort": "low"},
            {"thinking": True, "effort": "low"},
        ),
    ],
)
def test_the_variables_to_set(switches: Any, wish: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """What a request asks for becomes the template's own variables; None where it has no switch for that."""
    assert switched(switches, **wish) == expected


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("Qwen-Qwen3-0.6B", "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("deepseek-ai-DeepSeek-V3.1", "<think>", "</think>"),
        ("GLM-4.7-Flash", "<think>", "</think>"),
    ],
)
def test_a_models_switch(name: str, on: str, off: str) -> None:
    """The variables change the prompt's end, and the format knows whether it has begun the reasoning."""
    format, t = format_for(name), template(name)
    for thinks, end in ((True, on), (False, off)):
        variables: dict[str, Any] = switched(format.switches, thinks=thinks) or {}
        prompt = t.fill(ASKED, **variables)
        assert prompt.endswith(end)
        assert format.opening(prompt) == ("<think>" if end == "<think>" else "")


@pytest.mark.parametrize(
    ("name", "open", "close", "field"),
    [
        ("Qwen-Qwen3-0.6B", "<think>", "</think>", "reasoning_content"),
        ("ByteDance-Seed-OSS", "<seed:think>", "</seed:think>", "reasoning_content"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]", "[/THINK]", "parts"),
        ("Cohere2MoE", "<|START_THINKING|>", "<|END_THINKING|>", "reasoning_content"),
        ("upstage-Solar-Open-100B", "<|think|>", "<|end|><|begin|>assistant", "reasoning"),
        ("HuggingFaceTB-SmolLM3-3B", "<think>", "</think>", ""),
        ("Apriel-1.6-15b-Thinker-fixed", "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", "reasoning_content"),
    ],
)
def test_a_models_marks(name: str, open: str, close: str, field: str) -> None:
    """The marks of reasoning, and the field in which the template takes a history's."""
    thinking = format_for(name).thinking
    assert thinking and (thinking.open, thinking.close, thinking.field) == (open, close, field)


@pytest.mark.parametrize("name", ["meta-llama-Llama-3.1-8B-Instruct", "Qwen-Qwen2.5-7B-Instruct"])
def test_a_model_that_does_not_reason(name: str) -> None:
    """It has no marks, and nothing to switch."""
    assert format_for(name).thinking is None
    assert format_for(name).switches == {}
