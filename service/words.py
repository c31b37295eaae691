"""Pydantic's validation errors, of request fields and of settings, as plain sentences for users: no type, no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By pydantic's error type; {…} are filled from its context.
WORDS = {
    "missing": "it is missing",
    "string_type": "it must be a string",
    "int_type": "it must be an integer",
    "int_from_float": "it must be an integer",
    "int_parsing": "it must be an integer",
    "int_parsing_size": "it must be an integer",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "list_type": "it must be a list",
    "tuple_type": "it must be a list",
    "dict_type": "it must be an object",
    "model_type": "it must be an object",
    "model_attributes_type": "it must be an object",
    "literal_error": "it must be {expected}",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be {ge} or more",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be {le} or less",
    "string_too_long": "it may have at most {max_length} characters",
    "string_pattern_mismatch": "it contains characters that are not allowed, or is too long or too short",
}


def plain(error: Mapping[str, Any]) -> str:
    """One of ValidationError.errors() in plain words."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("string_too_short", "too_short"):
        least, unit = context["min_length"], "items" if kind == "too_short" else "characters"
        return "it must not be empty" if least == 1 else f"it must have at least {least} {unit}"
    if kind == "too_long":
        return f"it may have at most {context['max_length']} items"
    if kind in WORDS:
        return WORDS[kind].format(**context)
    message: str = error["msg"]
    return message.removeprefix("Value error, ")
