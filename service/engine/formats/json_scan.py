"""Where a JSON value in a growing text ends, each character looked at once. Pure; it does not check the value."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r"[\"{}\[\]]")
_INSIDE = re.compile(r"[\"\\]")
_BARE = re.compile(r"[\s,:<}\]]")  # what ends a number or a name


class JsonScan:
    """One value, which begins with the first character."""

    def __init__(self) -> None:
        self.is_complete = False
        self._depth = 0
        self._in_string = self._is_escaped = self._is_bare = False

    def advance(self, text: str, at: int) -> int:
        """Up to where text[at:] belongs to the value."""
        while at < len(text) and not self.is_complete:
            step = self._bare if self._is_bare else self._string if self._in_string else self._open
            at = step(text, at)
        return at

    def _open(self, text: str, at: int) -> int:
        if not self._depth and text[at] not in '"{[':
            self._is_bare = True
            return at
        found = _OUTSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
            self.is_complete = self._depth == 0
        return found.end()

    def _string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        found = _INSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == "\\":
            self._is_escaped = True
        else:
            self._in_string = False
            self.is_complete = self._depth == 0
        return found.end()

    def _bare(self, text: str, at: int) -> int:
        found = _BARE.search(text, at)
        self.is_complete = found is not None
        return len(text) if found is None else found.start()
