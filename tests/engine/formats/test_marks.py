"""Marks are found whatever their white space, and no sooner than is certain."""

from __future__ import annotations

import pytest

from service.engine.formats.marks import MOST_SPACE, Short, end_of, find


@pytest.mark.parametrize(
    ("text", "end"),
    [("<a>\n{", 5), ("<a>{x", 4), (" < a >\n\n {", 10), ("<a>x", None), ("<b", None), ("<a>" + " " * 99 + "{", None)],
)
def test_a_mark_at_a_place(text: str, end: int | None) -> None:
    """Its letters count, and white space between them does not, unless it is long."""
    assert end_of("<a>\n{", text, 0) == end


@pytest.mark.parametrize("text", ["", "<", "<a> ", "<a>" + " " * MOST_SPACE])
def test_a_text_that_ends_too_soon(text: str) -> None:
    """It may become the mark."""
    with pytest.raises(Short):
        end_of("<a>\n{", text, 0)


@pytest.mark.parametrize(
    ("text", "found"),
    [("x<a>", (1, 4)), ("x<<a>", (2, 5)), ("x<a", (1, None)), ("x<b<", (3, None)), ("xyz", (3, None)), ("", (0, None))],
)
def test_the_first_mark(text: str, found: tuple[int, int | None]) -> None:
    """Where it is, or may begin."""
    assert find("<a>", text, 0) == found
