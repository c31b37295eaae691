"""Answers of every format, cut anywhere: the same parts in total, and nothing that has to be taken back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.formats.format import HERMES, Format, Thinking, spec
from service.engine.formats.parser import Parser
from service.engine.formats.parts import CallArguments, CallOpened, Content, Reasoning, call_id
from tests.engine.formats import answers
from tests.engine.formats.answers import SCHEMAS, TEXT, THOUGHT, loaded, read, read_whole
from tests.engine.formats.templates import NAMES, format_for

WRITING = [name for name in NAMES if format_for(name).rendering.writes_calls]


@pytest.mark.parametrize("name", WRITING)
def test_what_a_template_writes_is_read(name: str) -> None:
    """Names and arguments of both calls are what was written: nested JSON, quotes, unicode, line feeds, numbers."""
    format = format_for(name)
    turn = answers.answer(name, format)
    expected = [("qfonea", answers.arguments_for(format)), ("qftwob", {})]
    assert loaded(read_whole(format, turn.before, [turn.text])) == expected[: 2 if format.calls.is_parallel else 1]


@pytest.mark.parametrize("name", WRITING)
def test_cuts_change_nothing(name: str) -> None:
    """An answer that arrives letter by letter is read as one that arrives at once."""
    format = format_for(name)
    turn = answers.answer(name, format, content=TEXT, reasoning=THOUGHT)
    assert read_whole(format, turn.before, turn.text) == read_whole(format, turn.before, [turn.text])


FEW = [
    "Qwen-Qwen3-0.6B",
    "Qwen3-Coder",
    "Kimi-K2-Instruct",
    "meetkai-functionary-medium-v3.2",
    "deepseek-ai-DeepSeek-V3.2",
]


@pytest.mark.parametrize("name", FEW)
def test_no_place_of_a_cut_matters(name: str) -> None:
    """Wherever an answer is cut in two, it is read as one that arrives at once."""
    format = format_for(name)
    _, _, prompt = turn = answers.answer(name, format, content=TEXT, reasoning=THOUGHT)
    text = turn.text
    expected = read_whole(format, prompt, [text])
    for cut in range(len(text)):
        assert read_whole(format, prompt, [text[:cut], text[cut:]]) == expected, text[:cut]


THINKING = replace(HERMES, thinking=Thinking("<think>", "</think>"))
CALL = '<tool_call>\n{"name": "qfonea", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "n_calls"),
    [
        ("", "", "", 0),
        ("Hi", "", "Hi", 0),
        ("  Hi\n\n", "", "  Hi\n\n", 0),
        ("<think>\nso\n</think>\n\nHi", "so", "Hi", 0),
        ("<think>\n\n</think>\n\nHi", "", "Hi", 0),
        ("<think>so", "so", "", 0),
        ("</think>Hi", "", "Hi", 0),
        ("Hi <think> you </think>", "", "Hi <think> you </think>", 0),
        ("<think>a <tool_call> is a mark</think>Hi", "a <tool_call> is a mark", "Hi", 0),
        (CALL, "", "", 1),
        (f"<think>so</think>\nI call:\n\n{CALL}\n", "so", "I call:", 1),
        (f"{CALL}\n{CALL}", "", "", 2),
        (f"{CALL}\nDone.", "", "Done.", 1),
        (CALL.replace("</tool_call>", ""), "", "", 1),
        ("< tool_call >" + CALL[11:], "", "", 1),
        ("a <tool_call> b", "", "a <tool_call> b", 0),
        ("a <tool_call>\n{1}", "", "a <tool_call>\n{1}", 0),
        ('<tool_call>{"name": 7}', "", '<tool_call>{"name": 7}', 0),
        ('<tool_call>{"x": 7}', "", '<tool_call>{"x": 7}', 0),
        ("a <tool", "", "a <tool", 0),
        (f"<tool_call><tool_call>{CALL[11:]}", "", "<tool_call>", 1),
        ("<tool_call>" + " " * 100 + "x", "", "<tool_call>" + " " * 100 + "x", 0),
    ],
)
def test_what_is_content_what_reasoning_and_what_a_call(text: str, reasoning: str, content: str, n_calls: int) -> None:
    """Marks are left out with the white space next to them; a text that is no call after all is content, and none is
    lost."""
    for pieces in ([text], list(text)):
        said = read_whole(THINKING, "", pieces)
        assert (said.reasoning, said.content, len(said.calls)) == (reasoning, content, n_calls)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ('{"name": "qfonea", "arguments": {"a": "}"}}', '{"a": "}"}'),
        ('{"arguments": {"a": 1}, "name": "qfonea"}', '{"a": 1}'),
        ('{"name": "qfonea", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"type": "function", "name": "qfonea", "arguments": {}}', "{}"),
        ('{"name": "qfonea"}', "{}"),
        (r'{"name": "qfonea", "arguments": "{\"a\": 1}"}', '{"a": 1}'),
    ],
)
def test_a_call_that_is_an_object(call: str, arguments: str) -> None:
    """Its keys come in any order; arguments may be missing, or be a string of JSON; what is passed on is the model's
    own JSON."""
    for pieces in ([f"<tool_call>{call}</tool_call>"], f"<tool_call>{call}</tool_call>"):
        assert read_whole(HERMES, "", pieces).calls == [(call_id("s1", 0), "qfonea", arguments)]


def test_parts_come_as_soon_as_they_are_certain() -> None:
    """Text, reasoning and arguments are passed on as they arrive; what may become a mark is held back."""
    parser = Parser(THINKING, SCHEMAS, stream="s1")
    assert parser.push("<think>a b ") == [Reasoning("a b")]
    assert parser.push("c</thi") == [Reasoning(" c")]
    assert parser.push("nk> Hello <") == [Content("Hello")]
    assert parser.push("b") == [Content(" <b")]
    assert parser.push('<tool_call>{"name": "f", "arguments": {"a') == [
        CallOpened(0, call_id("s1", 0), "f"),
        CallArguments(0, '{"a'),
    ]
    assert parser.push('": 1') == [CallArguments(0, '": 1')]
    assert parser.end() == []


def test_the_prompt_may_have_begun_the_answer() -> None:
    """A template that ends its prompt with the mark of reasoning begins the answer with it."""
    assert read_whole(THINKING, "<|assistant|><think>\n", ["so</think>Hi"]).reasoning == "so"
    assert read_whole(THINKING, "<think>\n\n</think>\n\n", ["Hi"]).content == "Hi"


def test_ids_follow_from_stream_and_index() -> None:
    """The same text gives the same ids after an engine's death; other streams have others."""
    ids = [call_id(stream, index) for stream in ("a", "b") for index in (0, 1)]
    assert len(set(ids)) == 4
    said = [part for part in read(HERMES, "", [CALL, CALL]) if isinstance(part, CallOpened)]
    assert [part.id for part in said] == [call_id("s1", 0), call_id("s1", 1)]


def test_json_without_a_mark_is_a_call_of_a_tool_that_there_is() -> None:
    """Where a call has no mark only an object at the answer's start with a tool's name is one."""
    bare = Format(calls=spec("«OBJECT»", is_parallel=False), joint="<|python_tag|>")
    call = '{"name": "qfonea", "parameters": {"a": 1}}'
    for text, n in ((call, 1), (f"<|python_tag|>{call}", 1), (f"x {call}", 0), (call.replace("qfonea", "none"), 0)):
        for pieces in ([text], text):
            said = read_whole(bare, "", pieces)
            assert (len(said.calls), said.content) == (n, "" if n else text)


def test_models_that_call_while_they_think() -> None:
    """Where a model leaves its reasoning open before it calls, a call ends it."""
    calling = replace(HERMES, thinking=Thinking("<think>", "</think>", calls_end_it=True))
    said = read_whole(calling, "", [f"<think>so\n{CALL}"])
    assert (said.reasoning, said.content, len(said.calls)) == ("so", "", 1)


@pytest.mark.parametrize("name", NAMES)
def test_broken_answers(name: str) -> None:
    """Whatever a model makes of a format, nothing raises or hangs, and cuts change nothing."""
    format, chance = format_for(name), random.Random(7)
    pieces = [*answers.marks(format), "{", "}", "[", "]", ",", ":", "'", '"', " ", "\n", "\\", "é", "qfonea", "count"]
    whole = list(answers.answer(name, format).text) if name in WRITING else []
    for _ in range(10):
        text = list(whole)
        for _ in range(4):
            at, n = chance.randrange(len(text) + 1), chance.randrange(20)
            text[at : at + n * chance.randrange(2)] = chance.choices(pieces, k=n)
        assert read_whole(format, "", ["".join(text)]) == read_whole(format, "", "".join(text)), "".join(text)


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", CALL, "<tool_call>", "{", '"name"', " ", "\n", "x", "</", '"']),
        max_size=12,
    ),
    st.data(),
)
def test_any_text_in_any_pieces(parts: list[str], data: st.DataObject) -> None:
    """No text raises, and no cut of it changes what it is."""
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read_whole(THINKING, "", pieces) == read_whole(THINKING, "", [text])
