"""A text that stands for a value of any type, as JSON or as Python writes it. Pure."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

from service.engine.formats.json_types import fits


def typed(text: str, types: frozenset[str]) -> Any:
    """The value of a text. types: those it may have; the text itself if it has none of the others."""
    if types != {"string"}:
        for read in (json.loads, _python):
            try:
                value = read(text.strip())
                if fits(value, types) or "string" not in types:
                    return json.loads(json.dumps(value, allow_nan=False))  # no value that JSON has not
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                continue
    return text


def expression(text: str) -> ast.expr:
    """A text as Python reads it, without warnings, which would be in a log. Raises what a parser raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


def _python(text: str) -> Any:
    return ast.literal_eval(expression(text))
