"""One sequence's draft tokens, and how often those like them were accepted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from service.engine.speculation.planning import (
    MAX_DRAFTS,
)
from service.engine.speculation.prompt_lookup import Guess, Lookup

# Initial acceptance rates, by the length of the match, a draft model's as length 0. A single stream tries drafts at
# these rates, 32 at once need 0.9 to gain by any.
MODELS = 0
FIRST_CHANCE = {3: 0.5, 2: 0.3, MODELS: 0.7}
SHARE = 1 / 8  # of the last observation in a rate: about the last eight drafts count


class DraftStats:
    """One sequence's drafts, and how often those like them were right, whether they were decoded or not."""

    def __init__(self, ends: Collection[int] = (), models_chance: float = FIRST_CHANCE[MODELS]) -> None:
        """models_chance: initial acceptance rate of a draft model's drafts."""
        self._lookup = Lookup(ends)
        self._chances = FIRST_CHANCE | {MODELS: models_chance}
        self._last, self._n = list[Guess](), 0  # the last drafts, and how many tokens they follow
        self.has_asked = False  # whether the draft model was used

    def look(self, tokens: Sequence[int], n: int = MAX_DRAFTS) -> tuple[list[int], float]:
        """Up to n draft tokens by lookup, and the acceptance rate of each, if those before it are accepted."""
        self._learn(tokens)
        found = self._lookup.guess(tokens, n)
        self._last, self._n = [found], len(tokens)
        return found.tokens, self._chances[found.length] if found.tokens else 0.0

    @property
    def models_chance(self) -> float:
        """Acceptance rate of each token of the draft model, if those before it are accepted."""
        return self._chances[MODELS]

    def take(self, guessed: list[int]) -> tuple[list[int], float]:
        """Add the draft model's tokens to what the last look found."""
        self._last.append(Guess(guessed, MODELS))
        self.has_asked = True
        return guessed, self.models_chance

    def _learn(self, tokens: Sequence[int]) -> None:
        for guess in self._last:
            for guessed, came in zip(guess.tokens, tokens[self._n :], strict=False):
                self._chances[guess.length] += ((guessed == came) - self._chances[guess.length]) * SHARE
                if guessed != came:
                    break
