"""Arguments with a mark around each, <parameter=K>V</parameter>, as JSON: strings as they arrive, other values whole.

Keys and marks are matched whatever their white space; a string is exact, less the line feeds that belong to its marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service.engine.formats.format import Parameter
from service.engine.formats.json_types import types_of
from service.engine.formats.marks import Short, end_of, letters
from service.engine.formats.sink import Sink
from service.engine.formats.source import Reading, Source
from service.engine.formats.typed import typed

_CDATA = "<![CDATA[", "]]>"


class ParameterReader:
    """One call's."""

    def __init__(self, parameter: Parameter, tail: str, schema: Mapping[str, Any], source: Source) -> None:
        """tail: what follows the last parameter. schema: JSON schema of the arguments."""
        self._p, self._tail, self._source = parameter, tail, source
        self._schema = schema
        self._after = parameter.after.strip()
        # The longer ones first: one may be the beginning of another.
        self._between = sorted(set(parameter.between.values()), key=lambda mark: -len(letters(mark)))

    def read(self, name: str, sink: Sink) -> Reading[bool]:
        """Open the call, and read its parameters; False: they are broken. The tail is not read."""
        lead = self._p.before
        found = yield from self._lead_or_tail(lead)
        if found is None:
            return False
        sink.open(name)
        begin = "{"
        while found == lead:
            key, types = yield from self._read_key()
            sink.argue(f"{begin}{_json(key)}: ")
            yield from self._read_value(types, sink)
            begin, lead = ", ", self._p.gap + self._p.before
            found = yield from self._lead_or_tail(lead)
        sink.argue("{}" if begin == "{" else "}")
        return found is not None

    def _lead_or_tail(self, lead: str) -> Reading[str | None]:
        """Which one is next; the tail is not read."""
        at = self._source.at
        found = yield from self._source.choose((lead, self._tail))
        if found == self._tail:
            self._source.at = at
        return found

    def _read_key(self) -> Reading[tuple[str, frozenset[str]]]:
        """A key, the mark between it and the value, and of which types the value may be."""
        source, first = self._source, letters(self._between[0])[0]
        while (end := source.text.find(first, source.at)) < 0:
            if source.has_ended:
                raise Short
            yield
        key, source.at = source.text[source.at : end].strip(), end
        mark = yield from source.choose(self._between)
        if mark is not None and mark.endswith("\n") and (yield from source.next()) == "\n":
            source.at += 1
        written = frozenset(kind for kind, between in self._p.between.items() if between == mark)
        declared = types_of(self._schema, key)
        return key, (declared & written if declared else written) or written

    def _read_value(self, types: frozenset[str], sink: Sink) -> Reading[None]:
        if types == {"string"} and not self._p.has_cdata:
            sink.argue('"')
            yield from self._read_text(sink)
            sink.argue('"')
        else:
            value = yield from self._read_whole()
            sink.argue(_json(self._value(value, types)))

    def _read_text(self, sink: Sink) -> Reading[None]:
        """A string, passed on as it arrives."""
        source = self._source
        while True:
            stop, end = self._end(source.at)
            sink.argue(_json(source.text[source.at : stop])[1:-1])
            source.at = stop
            if end is not None:
                source.at = end
                return
            if source.has_ended:
                raise Short
            yield

    def _read_whole(self) -> Reading[str]:
        stop = self._source.at
        while True:
            stop, end = self._end(stop)
            if end is not None:
                value, self._source.at = self._source.text[self._source.at : stop], end
                return value
            if self._source.has_ended:
                raise Short
            yield

    def _end(self, at: int) -> tuple[int, int | None]:
        """Where the value stops and its closing mark ends; without an end: up to where it is certain."""
        text, mark, begin = self._source.text, self._after, at
        while (at := text.find(mark[0], at)) >= 0:
            if mark.startswith(text[at : at + len(mark)]):
                stop = at - 1 if self._p.after[0] == "\n" and at > begin and text[at - 1] == "\n" else at
                is_end = self._is_followed(at + len(mark)) if text.startswith(mark, at) else None
                if is_end is None:
                    return stop, None
                if is_end:
                    return stop, at + len(mark)
            at += 1
        is_held = self._p.after[0] == "\n" and text.endswith("\n") and len(text) > begin
        return len(text) - is_held, None

    def _is_followed(self, at: int) -> bool | None:
        """Whether what is at `at` may follow a closing mark; None: not yet decided."""
        undecided = False
        for mark in (self._p.gap + self._p.before, self._tail):
            try:
                if end_of(mark, self._source.text, at) is not None:
                    return True
            except Short:
                undecided = not self._source.has_ended
        return None if undecided else False

    def _value(self, text: str, types: frozenset[str]) -> Any:
        if text.startswith(_CDATA[0]) and text.endswith(_CDATA[1]):
            text = text[len(_CDATA[0]) : -len(_CDATA[1])]
        return typed(text, types)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
