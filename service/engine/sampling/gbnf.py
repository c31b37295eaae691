"""Whether a GBNF grammar may be passed to llama.cpp: its rules, and the size they would expand to. Pure.

What is bounded here never ends there, or overflows its stack: llama.cpp follows rules by recursion, and keeps a stack
for every path to the first character of an alternative. All checks take time linear in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from service.engine.sampling.gbnf_parser import GrammarError, Item, Rules, parse

MAX_BYTES = 64 << 10
MAX_PATHS = 10_000  # from a rule to the characters that it may begin with


def check(text: str) -> None:
    """Raises GrammarError unless llama.cpp can follow this grammar from its rule `root` on."""
    if len(text.encode()) > MAX_BYTES:
        raise GrammarError(f"it has more than {MAX_BYTES} bytes")
    if "\0" in text:
        raise GrammarError("it contains a NUL")
    rules = parse(text)
    for name in {"root": 0, **{m: 0 for rule in rules.values() for m in _mentioned(rule)}}:
        if name not in rules:
            raise GrammarError(f"there is no rule '{name}'")
    _Emptiness().mark(rules)
    _check_paths(rules)


def _mentioned(alternatives: Iterable[Iterable[Item]]) -> set[str]:
    names: set[str] = set()
    for items in alternatives:
        for item in items:
            names |= {item.rule} if item.rule else _mentioned(item.group)
    return names


class _Emptiness:
    """Which rules and groups match the empty text, in time linear in the items: unit propagation (Dowling and Gallier,
    "Linear-time algorithms for testing the satisfiability of propositional Horn formulae", 1984)."""

    def __init__(self) -> None:
        self._references: dict[str, list[tuple[Item, _Alternative]]] = {}  # by rule
        self._found: list[str | tuple[Item, _Alternative]] = []  # rules and groups that may be empty

    def mark(self, rules: Rules) -> None:
        """Set is_hollow of every item."""
        for name, alternatives in rules.items():
            self._look(alternatives, name)
        while self._found:
            found = self._found.pop()
            if isinstance(found, str):
                for item, alternative in self._references.pop(found, ()):
                    self._hollow(item, alternative)
            else:
                self._hollow(*found)

    def _look(self, alternatives: list[list[Item]], owner: str | tuple[Item, _Alternative]) -> None:
        for items in alternatives:
            alternative = _Alternative(owner, sum(item.least > 0 for item in items))
            for item in items:
                if item.rule:
                    self._references.setdefault(item.rule, []).append((item, alternative))
                self._look(item.group, (item, alternative))
            if alternative.n_needed == 0:
                self._found.append(owner)

    def _hollow(self, item: Item, alternative: _Alternative) -> None:
        if item.is_hollow:
            return
        item.is_hollow = True
        alternative.n_needed -= item.least > 0
        if alternative.n_needed == 0:
            self._found.append(alternative.owner)


@dataclass(slots=True)
class _Alternative:
    """Of a rule, or of a group in another alternative, and how many of its items can't be empty, as far as known."""

    owner: str | tuple[Item, _Alternative]
    n_needed: int


def _check_paths(rules: Rules) -> None:
    """Raises GrammarError where a rule begins with itself, or in too many ways."""
    first = {name: _first(rule) for name, rule in rules.items()}
    try:
        order = list(TopologicalSorter(first).static_order())
    except CycleError as e:
        raise GrammarError(f"the rule '{e.args[1][0]}' is left-recursive") from None
    paths: dict[str, int] = {}
    for name in order:
        paths[name] = _n_paths(rules[name], paths)
        if paths[name] > MAX_PATHS:
            raise GrammarError(f"the rule '{name}' has more than {MAX_PATHS} ways to begin")


def _first(alternatives: Iterable[Iterable[Item]]) -> set[str]:
    """The rules that these alternatives may begin with."""
    names: set[str] = set()
    for items in alternatives:
        for item in items:
            names |= {item.rule} if item.rule else _first(item.group)
            if not item.is_optional:
                break
    return names


def _n_paths(alternatives: Iterable[Iterable[Item]], paths: Mapping[str, int]) -> int:
    total = 1
    for items in alternatives:
        for item in items:
            inside = paths[item.rule] if item.rule else _n_paths(item.group, paths)
            total += inside * item.most if item.is_hollow else inside
            if not item.is_optional:
                break
    return total
