"""An answer's text as it arrives, read by generators: each yields where it needs more text to decide.

So a parser reads as if all text were there, and what it decides depends on the text alone, not on its cuts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from service.engine.formats.json_scan import JsonScan
from service.engine.formats.marks import Short, end_of, find

T = TypeVar("T")
Reading = Generator[None, None, T]  # yields: more text is needed
Emit = Callable[[str], None]


class Found(NamedTuple):
    """A mark in the text, from start to end."""

    mark: str
    start: int
    end: int


class Source:
    """The text from `at` on is yet to be read. Every method raises Short if the text ends before it is decided."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.has_ended = False

    def __repr__(self) -> str:
        return f"<Source {self.at} of {len(self.text)} characters{', ended' if self.has_ended else ''}>"

    def push(self, text: str) -> None:
        self.text += text

    def forget(self) -> None:
        """Drop what was read. Positions from before are void."""
        self.text, self.at = self.text[self.at :], 0

    def decided(self, decide: Callable[[], T]) -> Reading[T]:
        """What `decide` returns as soon as the text suffices for it."""
        while True:
            try:
                return decide()
            except Short:
                if self.has_ended:
                    raise
            yield

    def until_pushed(self, text: str) -> Reading[None]:
        """Wait for text that comes after what there is."""
        at = len(self.text)
        while self.text.find(text, at) < 0:
            if self.has_ended:
                raise Short
            at = max(0, len(self.text) - len(text) + 1)
            yield

    def next(self) -> Reading[str]:
        """The next character; it is not read yet."""
        return (yield from self.decided(self._peek))

    def next_visible(self) -> Reading[str]:
        """The next character that is no white space; the white space is read."""
        while (yield from self.next()).isspace():
            self.at += 1
        return self.text[self.at]

    def match(self, mark: str) -> Reading[bool]:
        """Whether the mark is next; then it is read."""
        return (yield from self.choose((mark,))) is not None

    def choose(self, marks: Sequence[str]) -> Reading[str | None]:
        """The first of the marks that is next, and is then read; None: none is. At the text's end none is, too."""
        for mark in marks:
            try:
                end = yield from self.decided(lambda mark=mark: end_of(mark, self.text, self.at))  # type: ignore[misc]
            except Short:
                continue
            if end is not None:
                self.at = end
                return mark
        return None

    def word(self, pattern: re.Pattern[str]) -> Reading[str]:
        """The characters that match, at once; "": none do. White space before them is read."""
        while True:
            yield from self.next_visible()
            found = pattern.match(self.text, self.at)
            if found is None:
                return ""
            if found.end() < len(self.text) or self.has_ended:
                self.at = found.end()
                return found[0]
            yield

    def until(self, stops: Sequence[str], emit: Emit, begin: int = 0, *, trims: bool = False) -> Reading[Found | None]:
        """Pass text on up to the first of the stops, which is not read, less the white space before it; None: there is
        none up to the end. begin: no stop begins before it. trims: leave out white space that the text starts with."""
        while True:
            start, found = self._first(stops, max(begin, self.at))
            text = self.text[self.at : start]
            if trims:
                self.at += len(text) - len(text := text.lstrip())
            if found is not None or not self.has_ended:
                text = text.rstrip()
            if text:
                self.at += len(text)
                trims = False
                emit(text)
            if found is not None or self.has_ended:
                return found
            self.forget()
            begin = 0
            yield

    def json(self, emit: Emit) -> Reading[None]:
        """One JSON value, passed on as it arrives."""
        scan = JsonScan()
        while True:
            end = scan.advance(self.text, self.at)
            if end > self.at:
                emit(self.text[self.at : end])
                self.at = end
            if scan.is_complete:
                return
            yield from self.next()

    def whole_json(self) -> Reading[str]:
        """One JSON value."""
        pieces: list[str] = []
        yield from self.json(pieces.append)
        return "".join(pieces)

    def _peek(self) -> str:
        if self.at == len(self.text):
            raise Short
        return self.text[self.at]

    def _first(self, stops: Sequence[str], at: int) -> tuple[int, Found | None]:
        """Where the first stop begins, or may begin, and which one it is if that is certain."""
        nearest: tuple[int, Found | None] = len(self.text), None
        for mark in stops:
            start, end = find(mark, self.text, at)
            if end is None and self.has_ended:
                continue
            if start < nearest[0] or (start == nearest[0] and nearest[1] is None and end is not None):
                nearest = start, None if end is None else Found(mark, start, end)
        return nearest
