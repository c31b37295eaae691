"""Where parts of an answer go as they are read, until they are taken."""

from __future__ import annotations

from service.engine.formats.parts import CallArguments, CallOpened, Content, Part, Reasoning, call_id


class Sink:
    """Counts the calls, and gives them their ids."""

    def __init__(self, stream: str) -> None:
        """stream: what the ids are derived from."""
        self.n_calls = 0
        self.has_content = False
        self._stream = stream
        self._parts: list[Part] = []

    def say(self, part: Content | Reasoning) -> None:
        self._parts.append(part)
        self.has_content |= isinstance(part, Content)

    def open(self, name: str) -> None:
        """A call begins."""
        self._parts.append(CallOpened(self.n_calls, call_id(self._stream, self.n_calls), name))
        self.n_calls += 1

    def argue(self, text: str) -> None:
        """More of its arguments."""
        if text:
            self._parts.append(CallArguments(self.n_calls - 1, text))

    def take(self) -> list[Part]:
        """The parts since the last time."""
        parts, self._parts = self._parts, []
        return parts
