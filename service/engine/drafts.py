"""Which tokens each decoding sequence decodes beside its known one, for all that decode together.

lookup.py and draft_model.py guess, speculation.py says how many guesses pay; this holds what is known of a sequence,
for its life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from .draft_model import DraftModel
from .sequence import Sequence
from .speculation import FIRST_CHANCE, MAX_DRAFTS, MIN_SECONDS, MODELS, Costs, Guesses, depth, plan

SHARE = 1 / 8  # of a sequence that has ended in what a draft model's guesses are worth to those that begin
FORGETTING = 1 / 64  # of one that never asked it: what was not worth a try is tried again some time


class Drafts:
    """Every sequence's guesses, and what rows cost on this machine."""

    def __init__(
        self,
        ends: Collection[int],
        costs: Costs,
        *,
        model: DraftModel | None = None,
        min_seconds: float = MIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ends: tokens that end a text. model: guesses too. min_seconds: of a decode, below which nothing is guessed.
        clock: that the costs are measured with."""
        self._ends, self._costs, self._min_seconds, self.clock = ends, costs, min_seconds, clock
        self.model, self._models_chance = model, FIRST_CHANCE[MODELS]
        self._guesses: dict[str, Guesses] = {}

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        """Each one's drafts, n_most at most together: its guesses, then any token where a row more makes the decode
        faster. None goes beyond the last token that its sequence may have."""
        n = len(sequences)
        if n_most < 1 or not n or self._costs.of(n) < self._min_seconds:
            return [()] * n
        left = [max(s.max_tokens - s.n_generated - 1, 0) for s in sequences]
        looks = [self._of(s).look(s.tokens, min(MAX_DRAFTS, most)) for s, most in zip(sequences, left, strict=True)]
        if self.model is not None:
            looks = self._ask(self.model, sequences, looks, left, n_most)
        chances, n_guessed = [chance for _, chance in looks], [len(guessed) for guessed, _ in looks]
        counts = plan(self._costs, chances, n_guessed, n_most, self._min_seconds)
        return [
            (*guessed[:count], *[s.tokens[-1]] * (min(count, most) - len(guessed)))
            for s, most, (guessed, _), count in zip(sequences, left, looks, counts, strict=True)
        ]

    def seconds(self, n_rows: int) -> float:
        """What a decode of so many rows takes, as far as it is known."""
        return self._costs.of(n_rows)

    def observe(self, n_rows: int, seconds: float) -> None:
        """A decode of nothing but such rows, all of them with logits, took so long."""
        self._costs.observe(n_rows, seconds)

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        if self.model is not None:
            self.model.forget(sequence.id)
        if guesses := self._guesses.pop(sequence.id, None):
            goal, share = (guesses.models_chance, SHARE) if guesses.has_asked else (FIRST_CHANCE[MODELS], FORGETTING)
            self._models_chance += (goal - self._models_chance) * share

    def close(self) -> None:
        """Free the draft model."""
        if self.model is not None:
            self.model.close()

    def _ask(
        self,
        model: DraftModel,
        sequences: list[Sequence],
        looks: list[tuple[list[int], float]],
        left: list[int],
        n_most: int,
    ) -> list[tuple[list[int], float]]:
        """What was looked up, and the draft model's guesses for those to whom these are worth more."""
        asking = [i for i, s in enumerate(sequences) if left[i] > 0 and self._of(s).models_chance > looks[i][1]]
        chances = [self._of(sequences[i]).models_chance for i in asking]
        found = [(len(guessed), chance) for guessed, chance in looks]
        n = depth(self._costs, model.costs, chances, found, n_most)
        if n == 0:
            return looks
        for i, guessed in zip(asking, model.guess([sequences[i] for i in asking], n), strict=True):
            if guessed:
                looks[i] = self._of(sequences[i]).take(guessed[: left[i]])
        return looks

    def _of(self, sequence: Sequence) -> Guesses:
        found = self._guesses.get(sequence.id)
        if found is None:
            found = self._guesses[sequence.id] = Guesses(self._ends, self._models_chance)
        return found
