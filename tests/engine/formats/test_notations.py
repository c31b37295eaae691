"""Arguments in Python's and in Gemma's notation."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.formats.format import Hole
from service.engine.formats.notations import NOTATIONS

M = "]<]minimax[>[<"


@pytest.mark.parametrize(
    ("hole", "text", "expected"),
    [
        (Hole.PYTHON, "", {}),
        (Hole.PYTHON, "a='x', b=-1, c=1.5, d=True, e=None", {"a": "x", "b": -1, "c": 1.5, "d": True, "e": None}),
        (Hole.PYTHON, "a=[1, ('x', null)], b={'k': {\"l\": false}}", {"a": [1, ["x", None]], "b": {"k": {"l": False}}}),
        (Hole.PYTHON, 'a="it\'s \\n(1)"', {"a": "it's \n(1)"}),
        (Hole.GEMMA, "", {}),
        (Hole.GEMMA, 'a:<|"|>{x},<|"|>,b:-1.5,c:true,d:null', {"a": "{x},", "b": -1.5, "c": True, "d": None}),
        (Hole.GEMMA, 'a:[<|"|>x<|"|>,[],{b:1}],<|"|>c<|"|>:{}', {"a": ["x", [], {"b": 1}], "c": {}}),
        (Hole.GEMMA, "a:some word", {"a": "some word"}),
        (Hole.TAGS, "", {}),
        (Hole.TAGS, "<a>x</a><b>1</b>".replace("<", M), {"a": "x", "b": 1}),
        (Hole.TAGS, "<a><item>x</item><item><b>true</b></item></a>".replace("<", M), {"a": ["x", {"b": True}]}),
    ],
)
def test_arguments(hole: Hole, text: str, expected: dict[str, Any]) -> None:
    """They end at the bracket that closes the call, and are read as JSON's values."""
    notation = NOTATIONS[hole]
    assert notation.end(f"({text}{notation.close}]", 1) == len(text) + 1
    assert notation.end(f"({text}", 1) is None
    assert notation.read(text, {}) == expected


@pytest.mark.parametrize(
    ("hole", "text"),
    [
        (Hole.PYTHON, "1"),
        (Hole.PYTHON, "a=b"),
        (Hole.PYTHON, "a=f()"),
        (Hole.PYTHON, "**a"),
        (Hole.PYTHON, "a={1: 2}"),
        (Hole.PYTHON, "a=b'x'"),
        (Hole.PYTHON, "a=\0"),
        (Hole.PYTHON, "a=" + "[" * 1000),
        (Hole.GEMMA, "a"),
        (Hole.GEMMA, "a:"),
        (Hole.GEMMA, "a:b:c"),
        (Hole.GEMMA, "a:" + "[" * 10000),
        (Hole.GEMMA, "}a:1"),
        (Hole.TAGS, "<a>x".replace("<", M)),
        (Hole.TAGS, "<a>x</b>".replace("<", M)),
        (Hole.TAGS, "x</a>".replace("<", M)),
        (Hole.TAGS, "<a>".replace("<", M) * 10000),
    ],
)
def test_what_are_no_arguments(hole: Hole, text: str) -> None:
    """They raise what a caller expects."""
    with pytest.raises((ValueError, SyntaxError, LookupError, RecursionError, MemoryError)):
        NOTATIONS[hole].read(text, {})
