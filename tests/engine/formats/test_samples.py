"""Answers that models are known to give, where their templates show another form or none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.formats.answers import loaded, read_whole
from tests.engine.formats.templates import format_for

GPT_OSS, GEMMA, LFM, GRANITE = (
    "openai-gpt-oss-120b",
    "google-gemma-4-31B-it",
    "LFM2-8B-A1B",
    "ibm-granite-granite-3.3-2B-Instruct",
)
ONE = [("qfonea", {"a": 1})]


@pytest.mark.parametrize(
    ("name", "text", "reasoning", "content", "calls"),
    [
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Hi!",
            "So.",
            "Hi!",
            [],
        ),
        (
            GPT_OSS,
            "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>commentary to=functions.qfonea "
            '<|constrain|>json<|message|>{"a": 1}<|call|>',
            "So.",
            "",
            ONE,
        ),
        (GPT_OSS, ' to=functions.qfonea<|channel|>commentary json<|message|>{"a": 1}', "", "", ONE),
        (GPT_OSS, '<|channel|>analysis to=functions.qfonea code<|message|>{"a": 1}<|call|>', "", "", ONE),
        (GPT_OSS, "<|channel|>commentary<|message|>I look.<|end|>", "", "I look.", []),
        (GPT_OSS, "Just text", "", "Just text", []),
        (GPT_OSS, "<|channel|>fi", "", "<|channel|>fi", []),
        (GPT_OSS, "a <|channel|>", "", "a <|channel|>", []),
        (GPT_OSS, "<|channel|>final<|message|>a<|end|> <|start|>assistant", "", "a <|start|>assistant", []),
        (
            GEMMA,
            '<|channel>thought\nSo.\n<channel|><|tool_call>call:qfonea{a:<|"|>x{}, y<|"|>,b:[1,<|"|>z<|"|>],'
            "c:{d:true,e:null}}<tool_call|><|tool_call>call:qftwob{}<tool_call|>",
            "So.",
            "",
            [("qfonea", {"a": "x{}, y", "b": [1, "z"], "c": {"d": True, "e": None}}), ("qftwob", {})],
        ),
        (GEMMA, "<|tool_call>call:qfonea{a}<tool_call|>", "", "<|tool_call>call:qfonea{a}<tool_call|>", []),
        (GEMMA, "Hi.<|tool_call>call:qfonea{a:1}<tool_call|>", "", "Hi.", ONE),
        (
            LFM,
            """<|tool_call_start|>[qfonea(a='it\\'s (1)', b=[1, {"k": true}], c=None), qftwob()]"""
            "<|tool_call_end|>Done.",
            "",
            "Done.",
            [("qfonea", {"a": "it's (1)", "b": [1, {"k": True}], "c": None}), ("qftwob", {})],
        ),
        (LFM, "<|tool_call_start|>[qfonea(a=b)]", "", "<|tool_call_start|>[qfonea(a=b)]", []),
        (GRANITE, '<|tool_call|>[{"name": "qfonea", "arguments": {"a": 1}}]', "", "", ONE),
        (GRANITE, "<think>So.</think>\n\n<response>Hi!</response>", "So.", "Hi!", []),
        (
            "MiniMax-M3",
            (
                '<mm:think>So.</mm:think>Hi.<tool_call>\n<invoke name="qfonea"><text>42</text><count>42</count>'
                "<list><item><a>1</a></item></list></invoke>\n</tool_call>"
            )
            .replace("<", "]<]minimax[>[<")
            .replace("]<]minimax[>[<mm", "<mm")
            .replace("]<]minimax[>[</mm", "</mm"),
            "So.",
            "Hi.",
            [("qfonea", {"text": "42", "count": 42, "list": [{"a": 1}]})],
        ),
        ("Qwen3-Coder", "<function=qftwob>\n</function>", "", "", [("qftwob", {})]),
        (
            "Qwen3-Coder",
            "<tool_call>\n<function=qfonea>\n<parameter=text>\n42\n</parameter>\n<parameter=yes>\nTrue\n</parameter>\n</function>\n</tool_call>",
            "",
            "",
            [("qfonea", {"text": "42", "yes": True})],
        ),
        (
            "Kimi-K2-Instruct",
            '<|tool_call_begin|>functions.qfonea:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>',
            "",
            "",
            ONE,
        ),
        ("meta-llama-Llama-3.1-8B-Instruct", '<|python_tag|>{"name": "qfonea", "parameters": {"a": 1}}', "", "", ONE),
    ],
)
def test_a_known_answer(
    name: str, text: str, reasoning: str, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    """It is read as its parts, at once and letter by letter."""
    for pieces in ([text], text):
        said = read_whole(format_for(name), "", pieces)
        assert (said.reasoning, said.content, loaded(said)) == (reasoning, content, calls)
