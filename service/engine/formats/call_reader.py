"""Calls in an answer's text: begin CALL (separator CALL)* end, in one format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from service.engine.formats.format import Calls, Hole
from service.engine.formats.marks import Short
from service.engine.formats.notations import NOTATIONS
from service.engine.formats.object_reader import ObjectReader
from service.engine.formats.parameter_reader import ParameterReader
from service.engine.formats.sink import Sink
from service.engine.formats.source import Reading, Source

# Twice what OpenAI allows of a name: a longer word is none, and is not searched again with every letter.
_WORDS = {
    Hole.NAME: re.compile(r"[\w.\-]{1,128}"),
    Hole.ID: re.compile(r"[\w.:\-]{1,128}"),
    Hole.NUMBER: re.compile(r"\d{1,9}"),
}
_PIECE = re.compile(r"<[^<>\n]*>|\[/?[A-Z_]+\]|[^<\[\s]+|[<\[]")  # of a closing literal, which may lack the later ones


class CallReader:
    """Reads where calls may begin."""

    def __init__(self, calls: Calls, tools: Mapping[str, Mapping[str, Any]], source: Source, sink: Sink) -> None:
        """tools: name -> JSON schema of its arguments."""
        self._calls, self._tools, self._source, self._sink = calls, tools, source, sink
        self._end = _PIECE.findall(calls.end)
        first, *_, self._last = calls.literals
        self._first = [text for text in (first, calls.also) if text.strip()]

    def read(self) -> Reading[bool]:
        """All calls from here on; False: there is none, and nothing was read."""
        source, start, n = self._source, self._source.at, self._sink.n_calls
        try:
            if self._calls.begin.strip():
                yield from source.match(self._calls.begin)
            is_call = yield from self._read_one()
            while is_call:
                is_call = yield from self._read_another()
            if self._sink.n_calls > n:
                yield from self._read_pieces(self._end)
        except Short:
            if self._sink.n_calls > n:
                raise
        if self._sink.n_calls == n:
            source.at = start
        return self._sink.n_calls > n

    def _read_another(self) -> Reading[bool]:
        if self._calls.separator.strip():
            return (yield from self._source.match(self._calls.separator)) and (yield from self._read_one())
        return bool(self._calls.begin.strip()) and (yield from self._read_one())

    def _read_one(self) -> Reading[bool]:
        """One call; False: it is none, or is broken. If nothing of it was passed on, nothing is read."""
        start, n = self._source.at, self._sink.n_calls
        is_whole = yield from self._read_parts()
        if self._sink.n_calls == n:
            self._source.at = start
        return is_whole

    def _read_parts(self) -> Reading[bool]:
        if self._first and (yield from self._source.choose(self._first)) is None:
            return False
        name = ""
        for hole, literal in zip(self._calls.holes, self._calls.literals[1:], strict=True):
            if hole in _WORDS:
                word = yield from self._source.word(_WORDS[hole])
                if not word or (hole is Hole.NAME and name and word != name):
                    return False
                name = word if hole is Hole.NAME else name
                if literal.strip() and not (yield from self._source.match(literal)):
                    return False
            elif not (yield from self._read_arguments(hole, name)):
                return False
        yield from self._read_pieces(_PIECE.findall(self._last))
        return True

    def _read_arguments(self, hole: Hole, name: str) -> Reading[bool]:
        """What names the arguments, and for an object the call; False: it is something else."""
        if hole is Hole.PARAMETERS:
            assert self._calls.parameter is not None
            tail = _PIECE.findall(self._last)[0]
            reader = ParameterReader(self._calls.parameter, tail, self._tools.get(name, {}), self._source)
            return (yield from reader.read(name, self._sink))
        if hole in NOTATIONS:
            return (yield from self._read_notation(hole, name))
        if (yield from self._source.next_visible()) != "{":
            return False
        if hole is Hole.OBJECT:
            known = None if self._calls.triggers else self._tools.keys()
            return (yield from ObjectReader(self._calls.keys, known, self._source).read(self._sink))
        self._sink.open(name)
        yield from self._source.json(self._sink.argue)
        return True

    def _read_notation(self, hole: Hole, name: str) -> Reading[bool]:
        """Arguments that can be told only when all are there."""
        notation, source = NOTATIONS[hole], self._source
        while (end := notation.end(source.text, source.at)) is None:
            yield from source.until_pushed(notation.close)
        try:
            arguments = notation.read(source.text[source.at : end], self._tools.get(name, {}))
        except (ValueError, SyntaxError, IndexError, RecursionError, MemoryError):
            return False
        source.at = end
        self._sink.open(name)
        self._sink.argue(json.dumps(arguments, ensure_ascii=False))
        return True

    def _read_pieces(self, pieces: list[str]) -> Reading[None]:
        """What there is of a closing literal: models leave out its end, or end with it."""
        for piece in pieces:
            if not (yield from self._source.match(piece)):
                return
