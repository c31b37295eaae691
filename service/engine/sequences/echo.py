"""A prompt that is repeated before its answer: its text, and where in it each token begins. Pure.

It is delivered with the first tokens, or with the end. So a request that brings delivered tokens, to be continued, has
had it, and nothing else has to be remembered.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import accumulate


class Echo:
    """`text` and `offsets`: in characters, one for each token."""

    def __init__(self, pieces: Iterable[bytes], text: str | None = None) -> None:
        """pieces: of the prompt's tokens. text: as the client wrote it; None: it wrote token ids."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        parts = [decoder.decode(piece) for piece in pieces]
        self.text = "".join(parts) if text is None else text
        ends = list(accumulate(map(len, parts)))
        begin = len(self.text) - ends[-1]  # SentencePiece's space before the text is no part of it
        self.offsets = [max(0, begin + n) for n in (0, *ends[:-1])]

    def __repr__(self) -> str:
        return f"<Echo of {len(self.offsets)} tokens, {len(self.text)} characters>"
