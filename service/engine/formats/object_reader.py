"""A call that is one JSON object, {"name": ..., "arguments": {...}}, its keys in any order."""

from __future__ import annotations

import json
from collections.abc import Collection

from service.engine.formats.format import Keys
from service.engine.formats.sink import Sink
from service.engine.formats.source import Reading, Source

ARGUMENTS = frozenset({"arguments", "parameters"})  # what models write for each other
BESIDE = frozenset({"id", "type", "tool_call_id", "index"})


class ObjectReader:
    """Passes arguments on as they arrive if the name precedes them."""

    def __init__(self, keys: Keys, known: Collection[str] | None, source: Source) -> None:
        """known: the tools there are, where only that tells a call from other JSON; None: any name is a call's."""
        self._keys, self._known, self._source = keys, known, source
        self._name: str | None = None
        self._has_arguments = False
        self._held = ""  # arguments that precede the name

    def read(self, sink: Sink) -> Reading[bool]:
        """False: it is no call, or a broken one. The source is at the opening brace."""
        self._source.at += 1
        while (letter := (yield from self._source.next_visible())) != "}":
            if letter == ",":
                self._source.at += 1
            elif letter != '"' or not (yield from self._read_member(sink)):
                return False
        self._source.at += 1
        if self._name is not None and not self._has_arguments:
            sink.argue("{}")
        return self._name is not None

    def _read_member(self, sink: Sink) -> Reading[bool]:
        key = _text((yield from self._source.whole_json()))
        if key is None or not self._fits(key) or not (yield from self._source.match(":")):
            return False
        letter = yield from self._source.next_visible()
        if self._keys.is_keyed and not self._take_name(key, sink):
            return False
        if self._keys.is_keyed or key in ARGUMENTS or key == self._keys.arguments:
            return (yield from self._read_arguments(letter, sink))
        value = yield from self._source.whole_json()
        return key != self._keys.name or self._take_name(_text(value), sink)

    def _fits(self, key: str) -> bool:
        k = self._keys
        return k.is_keyed or key in ARGUMENTS or key in BESIDE or key in (k.name, k.arguments) or key in k.others

    def _take_name(self, name: str | None, sink: Sink) -> bool:
        if not name or self._name is not None or (self._known is not None and name not in self._known):
            return False
        self._name = name
        sink.open(name)
        sink.argue(self._held)
        return True

    def _read_arguments(self, letter: str, sink: Sink) -> Reading[bool]:
        self._has_arguments = True
        if letter == "{" and self._name is not None:
            yield from self._source.json(sink.argue)
            return True
        value = yield from self._source.whole_json()
        arguments = value if letter == "{" else _text(value)  # some models write them as a string of JSON
        if arguments is None:
            return False
        if self._name is None:
            self._held = arguments
        else:
            sink.argue(arguments)
        return True


def _text(value: str) -> str | None:
    """A JSON string's text; None: it is none."""
    try:
        text = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return text if isinstance(text, str) else None
