"""Which tokens may not come next, by the answer so far: ends before min_tokens, the last token of a bad word. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence


class Forbidden:
    """Its answers follow from the tokens so far alone: it has no state that would have to be rebuilt."""

    def __init__(
        self, *, ends: Collection[int] = (), min_tokens: int = 0, words: Collection[Sequence[int]] = ()
    ) -> None:
        """ends: tokens that end the answer, forbidden while it has fewer than min_tokens. words: token ids of each."""
        self._ends, self._min_tokens = sorted(ends), min_tokens
        self.always = frozenset(word[0] for word in words if len(word) == 1)
        self.ever = self.always.union(ends if min_tokens else (), (word[-1] for word in words))
        self._words: defaultdict[int, list[Sequence[int]]] = defaultdict(list)  # by the last token but one
        for word in words:
            if len(word) > 1:
                self._words[word[-2]].append(word)

    @property
    def varies(self) -> bool:
        """Whether it depends on the answer so far: without that `always` is all that it forbids."""
        return bool(self._words) or self._min_tokens > 0

    def after(self, made: Sequence[int]) -> list[int]:
        """The tokens that may not follow these, in addition to `always`."""
        found = list(self._ends) if len(made) < self._min_tokens else []
        words = self._words.get(made[-1], ()) if made else ()
        return found + [word[-1] for word in words if list(word[:-1]) == list(made[1 - len(word) :])]
