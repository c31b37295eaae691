"""A stream's dialect as plain values, and back: another replica must encode its events identically."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from service.dialects.events import Dialect
from service.dialects.llama_server import Completion, Deltas, WholeCompletion
from service.dialects.native import Native
from service.dialects.openai import Answer, Chunks, Whole


def describe(dialect: Dialect) -> dict[str, Any]:
    """Values from which `make` builds an equal dialect."""
    if isinstance(dialect, Deltas):
        return {"name": "completion", "completion": asdict(dialect.completion)}
    if isinstance(dialect, WholeCompletion):  # which is a Whole
        return {"name": "whole_completion", "completion": asdict(dialect.completion)}
    if isinstance(dialect, Chunks):
        values = {"name": "chunks", "answer": asdict(dialect.answer), "include_usage": dialect.include_usage}
        return values | _index(dialect.index)
    if isinstance(dialect, Whole):
        return {"name": "whole", "answer": asdict(dialect.answer)} | _index(dialect.index)
    return {"name": "native"}


def make(values: dict[str, Any]) -> Dialect:
    """The dialect so described. Raises ValueError."""
    try:
        match values["name"]:
            case "native":
                return Native()
            case "chunks":
                answer, index = Answer(**values["answer"]), values.get("index")
                return Chunks(answer, include_usage=values["include_usage"], index=index)
            case "whole":
                return Whole(Answer(**values["answer"]), index=values.get("index"))
            case "completion":
                return Deltas(Completion(**values["completion"]))
            case "whole_completion":
                return WholeCompletion(Completion(**values["completion"]))
    except (KeyError, TypeError) as e:
        raise ValueError(f"not a dialect: {e}") from None
    raise ValueError("an unknown dialect")


def _index(index: int | None) -> dict[str, int]:
    return {} if index is None else {"index": index}
