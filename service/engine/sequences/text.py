"""Bytes -> text that may be sent: incomplete UTF-8 is held back, and so is what may become a stop string. An incomplete
character at the end is dropped."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Text:
    """One answer's text as its bytes arrive. After a stop string nothing more comes out."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [s for s in stop if s]
        self._held = ""
        self.stopped = False
        self.n_characters = 0  # so far, also of what is held back

    def push(self, piece: bytes, final: bool = False) -> str:
        """The text that `piece` made sendable (broken UTF-8 as U+FFFD); with `final`, all whole characters that were
        held back."""
        if self.stopped:
            return ""
        decoded = self._decoder.decode(piece)
        self.n_characters += len(decoded)
        text = self._held + decoded
        if not self._stop:
            return text
        cut = min((at for s in self._stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = 0 if final else self._n_undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _n_undecided(self, text: str) -> int:
        """Length of the longest suffix of `text` that a stop string begins with."""
        longest = max(len(s) for s in self._stop) - 1
        for n in range(min(longest, len(text)), 0, -1):
            end = text[-n:]
            if any(s.startswith(end) for s in self._stop):
                return n
        return 0
