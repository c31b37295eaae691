"""GBNF text -> rules: the syntax of llama.cpp's grammars/README.md as src/llama-grammar.cpp parses it, less `<token>`,
`!<token>` (accept aborts on what they allow after a character) and line ends within braces. Pure.

What is bounded here overflows the stack or the memory there: brackets are parsed by recursion, and each repetition is
expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_DEPTH = 64  # brackets within brackets; llama.cpp dies at about 20,000
MAX_TIMES = 2000  # MAX_REPETITION_THRESHOLD: beyond it llama.cpp takes {0,n} for {0,}
MAX_RULES = 2000
MAX_ELEMENTS = 100_000  # characters and references with all repetitions expanded, 8 bytes each

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_CHARACTER = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\\"\[\]-])"
_LITERAL = re.compile(rf'"((?:[^"\\]|{_CHARACTER})*)"')
_CLASS = re.compile(rf"\[\^?((?:[^\]\\]|{_CHARACTER})+)\]")
_TIMES = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(?:(,)[ \t]*([0-9]{1,9})?[ \t]*)?\}")
_ONE = re.compile(rf"{_CHARACTER}|[\s\S]")
_MARKS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class GrammarError(Exception):
    """Not a grammar, or too large a one; the message says where, with nothing of its text but names of rules.

    param: the request's field.
    """

    param = "grammar"

    @property
    def told(self) -> str:
        """What its client is told."""
        return f"{self.param}: {self}"


@dataclass(slots=True)
class Item:
    """A literal, a class, a reference to a rule or a group, with its repetition."""

    n: int  # elements it is expanded to
    rule: str | None = None
    group: list[list[Item]] = field(default_factory=list)
    least: int = 1  # times
    most: int = 1  # times that it is expanded
    is_hollow: bool = False  # what is repeated may be empty: a text may then begin with its next repetition, too

    @property
    def is_optional(self) -> bool:
        return self.least == 0 or self.is_hollow


Rules = Mapping[str, list[list[Item]]]


def parse(text: str) -> Rules:
    """Each rule's alternatives, by name; the later of two definitions holds. Raises GrammarError."""
    return _Parser(text).rules()


class _Parser:
    """Recursive descent, as llama.cpp's."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._n_elements = text, 0, 0

    def rules(self) -> dict[str, list[list[Item]]]:
        rules: dict[str, list[list[Item]]] = {}
        self._skip(_SPACES)
        while self._at < len(self._text):
            name = self._take(_NAME, "a rule name")[0]
            self._skip(_SPACE)
            self._want("::=")
            self._skip(_SPACES)
            rules[name] = self._alternatives(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("this is not allowed in a rule")
            self._skip(_SPACES)
            if len(rules) > MAX_RULES:
                raise GrammarError(f"it has more than {MAX_RULES} rules")
        return rules

    def _alternatives(self, depth: int) -> list[list[Item]]:
        if depth > MAX_DEPTH:
            raise self._error(f"brackets are nested more than {MAX_DEPTH} deep")
        alternatives = [self._sequence(depth)]
        while self._is_at("|"):
            self._at += 1
            self._skip(_SPACES)
            alternatives.append(self._sequence(depth))
        return alternatives

    def _sequence(self, depth: int) -> list[Item]:
        items: list[Item] = []
        last: Item | None = None
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign in "*+?{":
                if last is None:
                    raise self._error("there is nothing to repeat")
                self._repeat(last)
            elif sign in '"[(.' or _NAME.match(sign):
                last = self._item(sign, depth)
                items += [last] if last else []
            elif sign in "<!":
                raise self._error("token references are not supported")
            else:
                break
            self._skip(_SPACES if depth else _SPACE)
        return items

    def _item(self, sign: str, depth: int) -> Item | None:
        """The item that begins here; None: an empty literal, which is nothing."""
        if sign == '"':
            literal = self._take(_LITERAL, "a literal or its end")[1]
            item = Item(len(_ONE.findall(literal)))
        elif sign == "[":
            item = Item(len(_ONE.findall(self._take(_CLASS, "a character class or its end")[1])))
        elif sign == "(":
            self._at += 1
            self._skip(_SPACES)
            item = Item(1, group=self._alternatives(depth + 1))
            self._want(")")
        elif sign == ".":
            self._at += 1
            item = Item(1)
        else:
            item = Item(1, rule=self._take(_NAME, "a name")[0])
        self._count(item.n)
        return item if item.n else None

    def _repeat(self, item: Item) -> None:
        least, most = self._times()
        if least > MAX_TIMES or (most or 0) > MAX_TIMES:
            raise self._error(f"more than {MAX_TIMES} repetitions")
        if most is not None and most < least:
            raise self._error("the maximum is less than the minimum")
        optional = 1 if most is None else most - least
        self._count(item.n * max(least - 1, 0) + (item.n + 3) * optional)
        item.n = item.n * least + 1
        item.least = min(item.least, least)
        item.most *= max(least + optional, 1)

    def _times(self) -> tuple[int, int | None]:
        if (sign := self._text[self._at]) in _MARKS:
            self._at += 1
            return _MARKS[sign]
        least, comma, most = self._take(_TIMES, "the number of repetitions").groups()
        return int(least), int(most) if most else None if comma else int(least)

    def _count(self, n: int) -> None:
        self._n_elements += n
        if self._n_elements > MAX_ELEMENTS:
            raise self._error(f"its repetitions expand to more than {MAX_ELEMENTS} elements")

    def _is_at(self, sign: str) -> bool:
        return self._text.startswith(sign, self._at)

    def _want(self, sign: str) -> None:
        if not self._is_at(sign):
            raise self._error(f"{sign} is missing")
        self._at += len(sign)

    def _skip(self, space: re.Pattern[str]) -> None:
        if found := space.match(self._text, self._at):
            self._at = found.end()

    def _take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise self._error(f"{what} is missing or malformed")
        self._at = found.end()
        return found

    def _error(self, message: str) -> GrammarError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return GrammarError(f"line {line}, column {column}: {message}")
