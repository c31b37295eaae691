"""Bytes -> text that may be sent: incomplete UTF-8 is held back, and so is what may become a stop string. An incomplete
character at the end is dropped."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Text:
    """One answer's text as its bytes arrive. After a stop string nothing more comes out."""

    def __init__(self, stop: Sequence[str] = (), *, includes_stop: bool = False, n_exempt: int = 0) -> None:
        """includes_stop: the stop string is a part of the text. n_exempt: none counts that ends within the first so
        many pieces."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [s for s in stop if s]
        self._includes_stop, self._n_exempt = includes_stop, n_exempt
        self._held = ""
        self.stopped = False
        self.n_characters = 0  # so far, also of what is held back

    def push(self, piece: bytes, final: bool = False) -> str:
        """The text that `piece` made sendable (broken UTF-8 as U+FFFD); with `final`, all whole characters that were
        held back."""
        if self.stopped:
            return ""
        decoded, n_held = self._decoder.decode(piece), len(self._held)
        self.n_characters += len(decoded)
        text = self._held + decoded
        if not self._stop:
            return text
        self._n_exempt -= 1
        if self._n_exempt < 0 and (found := self._stops(text, n_held)):
            self.stopped, self._held = True, ""
            begin, end = min(found)
            return text[: end if self._includes_stop else begin]
        keep = 0 if final else self._n_undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _stops(self, text: str, n_held: int) -> list[tuple[int, int]]:
        """Where each stop string begins and ends that ends after the first n_held characters: what was held back may
        have one that does not count."""
        places = ((text.find(s, max(0, n_held + 1 - len(s))), len(s)) for s in self._stop)
        return [(at, at + n) for at, n in places if at >= 0]

    def _n_undecided(self, text: str) -> int:
        """Length of the longest suffix of `text` that a stop string begins with."""
        longest = max(len(s) for s in self._stop) - 1
        for n in range(min(longest, len(text)), 0, -1):
            end = text[-n:]
            if any(s.startswith(end) for s in self._stop):
                return n
        return 0
