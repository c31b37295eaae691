"""A stream's dialect as plain values, and back: another replica must encode its events identically."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from service.dialects.events import Dialect
from service.dialects.native import Native
from service.dialects.openai import Answer, Chunks, Whole


def describe(dialect: Dialect) -> dict[str, Any]:
    """Values from which `make` builds an equal dialect."""
    if isinstance(dialect, Chunks):
        return {"name": "chunks", "answer": asdict(dialect.answer), "include_usage": dialect.include_usage}
    if isinstance(dialect, Whole):
        return {"name": "whole", "answer": asdict(dialect.answer)}
    return {"name": "native"}


def make(values: dict[str, Any]) -> Dialect:
    """The dialect so described. Raises ValueError."""
    try:
        match values["name"]:
            case "native":
                return Native()
            case "chunks":
                return Chunks(Answer(**values["answer"]), include_usage=values["include_usage"])
            case "whole":
                return Whole(Answer(**values["answer"]))
    except (KeyError, TypeError) as e:
        raise ValueError(f"not a dialect: {e}") from None
    raise ValueError("an unknown dialect")
