"""One sequence's draft tokens, and how often those like them were accepted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from service.engine.speculation.planning import MAX_DRAFTS
from service.engine.speculation.prompt_lookup import Guess, Lookup

# Initial acceptance rates, by the length of the match. A single stream tries drafts at these rates, 32 at once need 0.9
# to gain by any.
FIRST_CHANCE = {3: 0.5, 2: 0.3}
SHARE = 1 / 8  # of the last observation in a rate: about the last eight drafts count


class DraftStats:
    """One sequence's drafts, and how often those like them were right, whether they were decoded or not."""

    def __init__(self, ends: Collection[int] = ()) -> None:
        """ends: tokens that are never proposed."""
        self._lookup = Lookup(ends)
        self._chances = dict(FIRST_CHANCE)
        self._last, self._n = Guess([], 0), 0  # the last drafts, and how many tokens they follow

    def look(self, tokens: Sequence[int], n: int = MAX_DRAFTS) -> tuple[list[int], float]:
        """Up to n draft tokens, and the acceptance rate of each, if those before it are accepted."""
        self._learn(tokens)
        found = self._lookup.guess(tokens, n)
        self._last, self._n = found, len(tokens)
        return found.tokens, self._chances[found.length] if found.tokens else 0.0

    def _learn(self, tokens: Sequence[int]) -> None:
        length = self._last.length
        for guessed, came in zip(self._last.tokens, tokens[self._n :], strict=False):
            self._chances[length] += ((guessed == came) - self._chances[length]) * SHARE
            if guessed != came:
                break
