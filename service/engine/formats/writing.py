"""A call as text in a model's format, for templates that render none. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.engine.formats.format import Calls, Hole

Call = tuple[str, str, Mapping[str, Any]]  # id, name, arguments


def written(calls: Calls, given: Sequence[Call]) -> str:
    """These calls as the model would write them. For formats without a mark around each argument."""
    return calls.begin + calls.separator.join(_one(calls, i, *call) for i, call in enumerate(given)) + calls.end


def _one(calls: Calls, index: int, id: str, name: str, arguments: Mapping[str, Any]) -> str:
    filled = [_hole(calls, hole, index, id, name, arguments) for hole in calls.holes]
    return calls.literals[0] + "".join(a + b for a, b in zip(filled, calls.literals[1:], strict=True))


def _hole(calls: Calls, hole: Hole, index: int, id: str, name: str, arguments: Mapping[str, Any]) -> str:
    match hole:
        case Hole.NAME:
            return name
        case Hole.ID:
            return id
        case Hole.NUMBER:
            return str(index)
        case Hole.JSON:
            return _json(arguments)
        case Hole.PYTHON:
            return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        case Hole.OBJECT:
            return _json({calls.keys.name: name, calls.keys.arguments: dict(arguments)})
    raise ValueError(f"no text for {hole}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
