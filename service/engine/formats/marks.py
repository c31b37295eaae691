"""Literals of a format in a text that may go on: the same letters in the same order, whatever the white space. Pure."""

from __future__ import annotations

from functools import cache

MOST_SPACE = (
    64  # characters of white space within a mark: a longer gap is no mark's, and what is searched again is short
)


class Short(Exception):
    """The text ends before this is decided."""


def end_of(mark: str, text: str, at: int) -> int | None:
    """Where the mark that begins at `at` ends; None: it does not stand there. Raises Short."""
    for letter in letters(mark):
        at = after_space(text, at)
        if at == len(text):
            raise Short
        if text[at] != letter:
            return None
        at += 1
    return at


def find(mark: str, text: str, at: int) -> tuple[int, int | None]:
    """Start and end of the first one from `at` on. Without an end, one may begin at the start; at the text's end: none
    does."""
    first = letters(mark)[0]
    while (at := text.find(first, at)) >= 0:
        try:
            end = end_of(mark, text, at)
        except Short:
            return at, None
        if end is not None:
            return at, end
        at += 1
    return len(text), None


def after_space(text: str, at: int) -> int:
    """The place of the next character that is no white space, at most MOST_SPACE further."""
    stop = min(len(text), at + MOST_SPACE)
    while at < stop and text[at].isspace():
        at += 1
    return at


@cache
def letters(mark: str) -> str:
    """A mark without its white space."""
    return "".join(mark.split())
