"""The pieces of a Lark grammar: literals with control tokens in them, text up to a mark, JSON by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

ANY = "/(.|\\n)*/"
SPACE = "SPACE"
_SPACES = f"{SPACE}: /[ \\n]{{0,8}}/"
# Set over the schema's own: unsupported keywords are errors, and white space is bounded: an answer has to end.
_OPTIONS = {"lenient": False, "whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class Rules:
    """The rules of one grammar as they are added."""

    def __init__(self, controls: Mapping[str, int]) -> None:
        """controls: the texts of control tokens, and their ids."""
        self._controls = controls
        texts = sorted(filter(None, controls), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts)) or r"(?!)")
        self._rules: list[str] = []

    def text(self, start: Iterable[str]) -> str:
        """The whole grammar, with its first rule."""
        return "\n".join([f"start: {' '.join(filter(None, start))}", *self._rules, _SPACES, ""])

    def add(self, kind: str, body: str, options: str = "") -> str:
        """The name of a new rule."""
        name = f"{kind}_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def define(self, name: str, body: str) -> None:
        """A rule of this name."""
        self._rules.append(f"{name}: {body}")

    def literal(self, text: str) -> str:
        """A text as strings and tokens; "" for none."""
        found, at = [], 0
        for control in self._control.finditer(text):
            found += [_quoted(text[at : control.start()]), f"<[{self._controls[control[0]]}]>"]
            at = control.end()
        return " ".join(filter(None, [*found, _quoted(text[at:])]))

    def until(self, mark: str) -> str:
        """Any text up to and with the mark."""
        control = self._control.search(mark)
        before = mark[: control.start()] if control else mark
        text = self.add("text", ANY, f"[suffix={_quoted(before)}]" if before else "")
        return f"{text} {self.literal(mark[len(before) :])}".strip()


def json_by(schema: Mapping[str, Any]) -> str:
    """Any JSON value that the schema allows."""
    return f"%json {json.dumps({**schema, 'x-guidance': _OPTIONS}, ensure_ascii=False)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
