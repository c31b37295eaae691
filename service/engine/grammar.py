"""Whether a GBNF grammar may be handed to llama.cpp: its syntax, its rules and what they would grow to. Pure.

The syntax is that of llama.cpp's grammars/README.md as src/llama-grammar.cpp reads it, less `<token>` and `!<token>`:
what they allow behind a character, accept aborts on. What is bounded here overflows the stack or the memory there, or
never ends: brackets and rules are followed by recursion, each repetition is written out, and every way to the first
character of an alternative is a stack of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

MAX_BYTES = 64 << 10
MAX_DEPTH = 64  # brackets within brackets; llama.cpp dies at about 20,000
MAX_TIMES = 2000  # MAX_REPETITION_THRESHOLD: beyond it llama.cpp takes {0,n} for {0,}
MAX_RULES = 2000
MAX_ELEMENTS = 100_000  # characters and references once the repetitions are written out, 8 bytes each
MAX_PATHS = 10_000  # from a rule to the characters that it may begin with

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_CHARACTER = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\\"\[\]-])"
_LITERAL = re.compile(rf'"((?:[^"\\]|{_CHARACTER})*)"')
_CLASS = re.compile(rf"\[\^?((?:[^\]\\]|{_CHARACTER})+)\]")
_TIMES = re.compile(r"\{[ \t\r\n]*([0-9]{1,9})[ \t\r\n]*(?:(,)[ \t\r\n]*([0-9]{1,9})?[ \t\r\n]*)?\}")
_ONE = re.compile(rf"{_CHARACTER}|[\s\S]")
_MARKS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class GrammarError(Exception):
    """This is no grammar, or too much of one; the message says where, with nothing of its text but names of rules."""


@dataclass(slots=True)
class _Item:
    """A literal, a class, a reference to a rule or a group, with its repetition."""

    n: int  # elements it is written out to
    rule: str | None = None
    group: list[list[_Item]] = field(default_factory=list)
    least: int = 1  # times
    most: int = 1  # times that it is written out


def check(text: str) -> None:
    """Raises GrammarError unless llama.cpp can follow this grammar from its rule `root` on."""
    if len(text.encode()) > MAX_BYTES:
        raise GrammarError(f"it has more than {MAX_BYTES} bytes")
    if "\0" in text:
        raise GrammarError("it holds a NUL")
    rules = _Parser(text).rules()
    for name in {"root": 0, **{m: 0 for rule in rules.values() for m in _mentioned(rule)}}:
        if name not in rules:
            raise GrammarError(f"there is no rule '{name}'")
    _check_paths(rules, _empty(rules))


class _Parser:
    """Recursive descent, as llama.cpp's."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._n_elements = text, 0, 0

    def rules(self) -> dict[str, list[list[_Item]]]:
        """Each rule's alternatives, by name; the later of two definitions holds."""
        rules: dict[str, list[list[_Item]]] = {}
        self._skip(_SPACES)
        while self._at < len(self._text):
            name = self._take(_NAME, "the name of a rule")[0]
            self._skip(_SPACE)
            self._want("::=")
            self._skip(_SPACES)
            rules[name] = self._alternatives(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._error("this can't stand in a rule")
            self._skip(_SPACES)
            if len(rules) > MAX_RULES:
                raise GrammarError(f"it has more than {MAX_RULES} rules")
        return rules

    def _alternatives(self, depth: int) -> list[list[_Item]]:
        if depth > MAX_DEPTH:
            raise self._error(f"brackets are nested more than {MAX_DEPTH} deep")
        alternatives = [self._sequence(depth)]
        while self._is_at("|"):
            self._at += 1
            self._skip(_SPACES)
            alternatives.append(self._sequence(depth))
        return alternatives

    def _sequence(self, depth: int) -> list[_Item]:
        items: list[_Item] = []
        last: _Item | None = None
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

    def _item(self, sign: str, depth: int) -> _Item | None:
        """The item that begins here; None: an empty literal, which is nothing."""
        if sign == '"':
            literal = self._take(_LITERAL, "a literal and its end")[1]
            item = _Item(len(_ONE.findall(literal)))
        elif sign == "[":
            item = _Item(len(_ONE.findall(self._take(_CLASS, "a class of characters and its end")[1])))
        elif sign == "(":
            self._at += 1
            self._skip(_SPACES)
            item = _Item(1, group=self._alternatives(depth + 1))
            self._want(")")
        elif sign == ".":
            self._at += 1
            item = _Item(1)
        else:
            item = _Item(1, rule=self._take(_NAME, "a name")[0])
        self._count(item.n)
        return item if item.n else None

    def _repeat(self, item: _Item) -> None:
        least, most = self._times()
        if least > MAX_TIMES or (most or 0) > MAX_TIMES:
            raise self._error(f"more than {MAX_TIMES} repetitions")
        if most is not None and most < least:
            raise self._error("the most is less than the least")
        optional = 1 if most is None else most - least
        self._count(item.n * max(least - 1, 0) + (item.n + 3) * optional)
        item.n = item.n * least + 1
        item.least = min(item.least, least)
        item.most *= max(least + optional, 1)

    def _times(self) -> tuple[int, int | None]:
        if (sign := self._text[self._at]) in _MARKS:
            self._at += 1
            return _MARKS[sign]
        least, comma, most = self._take(_TIMES, "how many times").groups()
        return int(least), int(most) if most else None if comma else int(least)

    def _count(self, n: int) -> None:
        self._n_elements += n
        if self._n_elements > MAX_ELEMENTS:
            raise self._error(f"its repetitions write out more than {MAX_ELEMENTS} elements")

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


Rules = Mapping[str, list[list[_Item]]]


def _mentioned(alternatives: Iterable[Iterable[_Item]]) -> set[str]:
    names: set[str] = set()
    for items in alternatives:
        for item in items:
            names |= {item.rule} if item.rule else _mentioned(item.group)
    return names


def _empty(rules: Rules) -> set[str]:
    """The rules that nothing at all fulfils."""
    empty: set[str] = set()
    users: dict[str, set[str]] = {name: set() for name in rules}
    for name, rule in rules.items():
        for mentioned in _mentioned(rule):
            users[mentioned].add(name)
    work = list(rules)
    while work:
        name = work.pop()
        if name not in empty and _may_be_empty(rules[name], empty):
            empty.add(name)
            work += users[name]
    return empty


def _may_be_empty(alternatives: Iterable[Iterable[_Item]], empty: set[str]) -> bool:
    return any(all(_is_optional(item, empty) for item in items) for items in alternatives)


def _is_optional(item: _Item, empty: set[str]) -> bool:
    return item.least == 0 or _is_hollow(item, empty)


def _is_hollow(item: _Item, empty: set[str]) -> bool:
    """Whether what is repeated may be nothing: the next time is then a beginning, too."""
    return item.rule in empty or (bool(item.group) and _may_be_empty(item.group, empty))


def _check_paths(rules: Rules, empty: set[str]) -> None:
    """Raises GrammarError where a rule begins with itself, or in too many ways."""
    first = {name: _first(rule, empty) for name, rule in rules.items()}
    try:
        order = list(TopologicalSorter(first).static_order())
    except CycleError as e:
        raise GrammarError(f"the rule '{e.args[1][0]}' begins with itself (left recursion)") from None
    paths: dict[str, int] = {}
    for name in order:
        paths[name] = _n_paths(rules[name], empty, paths)
        if paths[name] > MAX_PATHS:
            raise GrammarError(f"the rule '{name}' begins in more than {MAX_PATHS} ways")


def _first(alternatives: Iterable[Iterable[_Item]], empty: set[str]) -> set[str]:
    """The rules that a text of these may begin with."""
    names: set[str] = set()
    for items in alternatives:
        for item in items:
            names |= {item.rule} if item.rule else _first(item.group, empty)
            if not _is_optional(item, empty):
                break
    return names


def _n_paths(alternatives: Iterable[Iterable[_Item]], empty: set[str], paths: Mapping[str, int]) -> int:
    total = 1
    for items in alternatives:
        for item in items:
            inside = paths[item.rule] if item.rule else _n_paths(item.group, empty, paths)
            total += inside * item.most if _is_hollow(item, empty) else inside
            if not _is_optional(item, empty):
                break
    return total
