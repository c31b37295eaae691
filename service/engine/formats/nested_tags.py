"""MiniMax M3's arguments: <K>V</K> with tags within tags, each after a mark; elements of a list are <item>. Pure.

A value's type is in no tag, so it is the schema's, as far as that says one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from service.engine.formats.json_types import ALL, allowed
from service.engine.formats.typed import typed

MARK = "]<]minimax[>["
CLOSE = MARK + "</invoke>"
_TAG = re.compile(re.escape(MARK) + r"<(/?)([^>/]+)>")
Schema = Mapping[str, Any]


def end(text: str, at: int) -> int | None:
    """Where the arguments end from here on; None: that is yet to come."""
    found = text.find(CLOSE, at)
    return None if found < 0 else found


def read(text: str, schema: Schema) -> dict[str, Any]:
    """The arguments. Raises ValueError for tags that are not closed."""
    value, rest = _members(text, 0, "", schema, schema)
    if rest != len(text) or not isinstance(value, dict):
        raise ValueError("no arguments")
    return value


def _members(text: str, at: int, name: str, schema: Any, root: Schema) -> tuple[Any, int]:
    """The value of the tag that was opened before `at`, and where its closing tag ends; without a name: the text."""
    members: list[tuple[str, Any]] = []
    start = at
    while tag := _TAG.search(text, at):
        if tag[1]:
            break
        value, at = _members(text, tag.end(), tag[2], _schema_of(schema, tag[2]), root)
        members.append((tag[2], value))
    if (tag is not None and tag[2] != name) or (tag is None and name):
        raise ValueError("a tag is not closed")
    stop, after = (len(text), len(text)) if tag is None else tag.span()
    types = allowed(schema, root) or ALL
    if not members and name and not types <= {"array", "object"}:
        return typed(text[start:stop], types), after
    if members and all(key == "item" for key, _ in members):
        return [value for _, value in members], after
    return ([] if "array" in types and name and not members else dict(members)), after


def _schema_of(schema: Any, key: str) -> Any:
    """Of a member or an element."""
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    found = properties.get(key) if isinstance(properties, Mapping) else None
    return schema.get("items") if found is None and key == "item" else found
