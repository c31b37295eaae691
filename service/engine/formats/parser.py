"""An answer's text, cut anywhere, as parts. The same text gives the same parts in total, however it is cut.

White space next to a mark belongs to the mark. A text that begins like a call and is none is content: none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.engine.formats.call_reader import CallReader
from service.engine.formats.format import Format
from service.engine.formats.harmony import channels
from service.engine.formats.marks import Short
from service.engine.formats.parts import Content, Part, Reasoning
from service.engine.formats.sink import Sink
from service.engine.formats.source import Found, Reading, Source


class Parser:
    """One answer. Fed the same text again, after an engine's death, it is in the same state."""

    def __init__(
        self, format: Format, tools: Mapping[str, Mapping[str, Any]], *, stream: str = "", prompt: str = ""
    ) -> None:
        """tools: name -> JSON schema of its arguments. stream: what the ids of calls are derived from. prompt: as it
        was rendered, since it may have begun the answer."""
        self._source, self._sink = Source(), Sink(stream)
        if format.is_harmony:
            self._reading = channels(self._source, self._sink)
        else:
            self._reading = _Answer(format, tools, self._source, self._sink).read()
        self._is_read = False
        self.push(format.opening(prompt))

    def push(self, text: str) -> list[Part]:
        """The parts that this text made certain."""
        self._source.push(text)
        try:
            if not self._is_read:
                next(self._reading)
        except (StopIteration, Short):  # only at the end
            self._is_read = True
        return self._sink.take()

    def end(self) -> list[Part]:
        """The rest, when the answer has ended."""
        self._source.has_ended = True
        return self.push("")


class _Answer:
    """[reasoning] (text | calls)*."""

    def __init__(self, format: Format, tools: Mapping[str, Mapping[str, Any]], source: Source, sink: Sink) -> None:
        self._format, self._source, self._sink = format, source, sink
        self._calls = CallReader(format.calls, tools, source, sink)
        self._triggers = format.calls.triggers
        self._stops = [*self._triggers, *_visible(format.text_close, format.joint)]
        self._is_after_mark = self._has_reasoned = False

    def read(self) -> Reading[None]:
        begin = 0  # a call may begin from here on
        while True:
            if not begin:
                yield from self._read_marks()
            found = yield from self._read_text(Content, self._stops, begin)
            begin = 0
            if found is None:
                return
            if found.mark not in self._triggers:
                self._source.at, self._is_after_mark = found.end, True
            elif (yield from self._calls.read()):
                self._is_after_mark = True
            else:
                begin = found.start + 1

    def _read_marks(self) -> Reading[None]:
        """Those that count only where no text precedes them, with what they begin."""
        while mark := (yield from self._source.choose(self._leading_marks())):
            self._is_after_mark = True
            if self._format.thinking and mark == self._format.thinking.open:
                yield from self._read_reasoning()
        if not self._triggers and (yield from self._calls.read()):
            self._is_after_mark = True

    def _leading_marks(self) -> list[str]:
        f = self._format
        thinking = (f.thinking.open, f.thinking.close) if f.thinking and self._may_reason else ()
        return _visible(*thinking, f.text_open and f.prefill + f.text_open, f.joint)

    @property
    def _may_reason(self) -> bool:
        return not (self._has_reasoned or self._sink.has_content or self._sink.n_calls)

    def _read_reasoning(self) -> Reading[None]:
        thinking = self._format.thinking
        assert thinking is not None
        self._has_reasoned = True
        stops = [thinking.close, *(self._triggers if thinking.calls_end_it else ())]
        found = yield from self._read_text(Reasoning, stops)
        if found is not None and found.mark == thinking.close:
            self._source.at = found.end
        self._is_after_mark = True

    def _read_text(
        self, kind: type[Content | Reasoning], stops: Sequence[str], begin: int = 0
    ) -> Reading[Found | None]:
        trims, self._is_after_mark = self._is_after_mark, False
        return (yield from self._source.until(stops, lambda text: self._sink.say(kind(text)), begin, trims=trims))


def _visible(*marks: str) -> list[str]:
    """Those that are not blank."""
    return [mark for mark in marks if mark.strip()]
