"""Grammars of calls: they compile, take what the template writes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.formats import lark
from service.engine.formats.format import HERMES, Hole
from tests.engine.formats import answers
from tests.engine.formats.answers import SCHEMAS
from tests.engine.formats.templates import NAMES, format_for

llguidance = pytest.importorskip("llguidance")
WRITING = [name for name in NAMES if format_for(name).rendering.writes_calls]
TOOLS: dict[str, dict[str, Any]] = {
    "f": {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}, "required": ["a"]},
    "g": {},
}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "x", "n": 1}}\n</tool_call>'


def taken(grammar: str, text: str) -> int:
    """The bytes of the longest answer by this grammar that the text begins with; -1: it begins with none."""
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    longest = 0 if matcher.is_accepting() else -1
    for n, byte in enumerate(text.encode(), 1):
        if not matcher.try_consume_tokens([byte]):
            break
        longest = n if matcher.is_accepting() else longest
    return longest


def takes(grammar: str, text: str) -> bool:
    """Whether the whole text is an answer by this grammar."""
    return taken(grammar, text) == len(text.encode())


# Their templates write another form than the grammar, which their models write, too: JSON with line feeds, with \\u for
# letters, or another order of gpt-oss's header.
OTHERWISE = {"CohereForAI-c4ai-command-r-plus-tool_use", "Reka-Edge", "openai-gpt-oss-120b"}


@pytest.mark.parametrize("name", [name for name in WRITING if name not in OTHERWISE])
def test_what_a_template_writes_is_an_answer(name: str) -> None:
    """The calls that a template writes are in the grammar of required calls, and nothing but its turn's end is behind
    them."""
    format = format_for(name)
    is_python = format.calls.parameter is not None and "array" in format.calls.parameter.python
    arguments = {
        k: v for k, v in answers.arguments_for(format).items() if not (is_python and isinstance(v, list | dict))
    }
    schema = SCHEMAS["qfonea"] | {"required": list(arguments)}
    turn = answers.answer(name, format, arguments=arguments)
    grammar = lark.required(format, SCHEMAS | {"qfonea": schema}, {}, format.opening(turn.prompt))
    thinking = format.thinking
    is_open = thinking and format.opening(turn.prompt) == thinking.open and thinking.close not in turn.text
    text = (thinking.close if thinking and is_open else "") + turn.text  # histories leave reasoning out
    n = taken(grammar, text)
    assert n > 0 and "qf" not in text.encode()[n:].decode()


@pytest.mark.parametrize("name", NAMES)
def test_every_formats_grammars_compile(name: str) -> None:
    """Required and lazy."""
    for grammar in (lark.required(format_for(name), SCHEMAS, {}), lark.lazy(format_for(name), SCHEMAS, {})):
        error = grammar and llguidance.LLMatcher.validate_grammar(llguidance.LLMatcher.grammar_from_lark(grammar))
        assert not error


@pytest.mark.parametrize(
    ("text", "is_an_answer"),
    [
        (CALL, True),
        (CALL + "\n" + CALL, True),
        ('<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>', True),
        (CALL.replace('"f"', '"h"'), False),
        (CALL.replace('"x"', "7"), False),
        (CALL.replace('"a": "x", ', ""), False),
        (CALL.replace("}}", "}, }"), False),
        ("Hello", False),
        ("", False),
    ],
)
def test_required_calls(text: str, is_an_answer: bool) -> None:
    """An answer has to call, tools that there are, with arguments by their schema."""
    assert takes(lark.required(HERMES, TOOLS, {}), text) == is_an_answer


def test_one_call_only() -> None:
    """Without parallel calls there is one."""
    grammar = lark.required(HERMES, TOOLS, {}, is_parallel=False)
    assert takes(grammar, CALL) and not takes(grammar, CALL + "\n" + CALL)


@pytest.mark.parametrize(
    ("text", "is_an_answer"),
    [
        ("", True),
        ("Hello <b>", True),
        (CALL, True),
        (f"I look:\n{CALL}\n{CALL}\nDone", True),
        (CALL.replace('"f"', '"h"'), False),
        (CALL.replace('"x"', "7"), False),
    ],
)
def test_lazy_calls(text: str, is_an_answer: bool) -> None:
    """Any text, in which calls are right."""
    assert takes(lark.lazy(HERMES, TOOLS, {}) or "", text) == is_an_answer


def test_reasoning_comes_first() -> None:
    """A required call follows the model's reasoning, which the prompt may have begun."""
    format = format_for("Qwen-Qwen3-0.6B")
    free = lark.required(format, TOOLS, {})
    assert takes(free, CALL) and takes(free, f"<think>\na < b\n</think>\n\n{CALL}")
    begun = lark.required(format, TOOLS, {}, "<think>")
    assert takes(begun, f"a < b\n</think>\n\n{CALL}") and not takes(begun, CALL)


def test_control_tokens_are_tokens() -> None:
    """Marks that are control tokens are written by their ids."""
    controls = {"<tool_call>": 7, "</tool_call>": 8, "</think>": 9, "<think>": 10}
    grammar = lark.required(format_for("Qwen-Qwen3-0.6B"), TOOLS, controls, "<think>")
    assert all(f"<[{id}]>" in grammar for id in (7, 8, 9)) and "tool_call>" not in grammar
    assert '"\\n{\\"name\\": \\"f\\", \\"arguments\\": "' in grammar
    assert "<[7]>" in (lark.lazy(HERMES, TOOLS, controls) or "")


def test_a_format_without_a_mark_has_no_lazy_grammar() -> None:
    """Nothing tells where a call begins that is mere JSON."""
    assert lark.lazy(format_for("meta-llama-Llama-3.1-8B-Instruct"), TOOLS, {}) is None


def test_references_keep_their_definitions() -> None:
    """A parameter with a mark of its own may refer to the definitions of all arguments."""
    format = format_for("Qwen3-Coder")
    schema = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/q"}},
        "$defs": {"q": {"type": "integer"}},
        "required": ["p"],
    }
    assert Hole.PARAMETERS in format.calls.holes
    call = "<tool_call>\n<function=f>\n<parameter=p>\n{}\n</parameter>\n</function>\n</tool_call>"
    grammar = lark.required(format, {"f": schema}, {})
    assert takes(grammar, call.format(5)) and not takes(grammar, call.format("x"))
