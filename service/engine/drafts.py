"""Which tokens each decoding sequence decodes beside its known one, for all that decode together. No model in here.

lookup.py guesses, speculation.py says how many guesses pay; this holds what both know of a sequence, for its life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from .sequence import Sequence
from .speculation import MAX_DRAFTS, MIN_SECONDS, Costs, Guesses, plan


class Drafts:
    """Every sequence's guesses, and what rows cost on this machine."""

    def __init__(
        self,
        ends: Collection[int],
        costs: Costs,
        *,
        min_seconds: float = MIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ends: tokens that end a text. min_seconds: of a decode, below which nothing is guessed.
        clock: that the costs are measured with."""
        self._ends, self._costs, self._min_seconds, self.clock = ends, costs, min_seconds, clock
        self._guesses: dict[str, Guesses] = {}

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        """Each one's drafts, n_most at most together: its guesses, then any token where a row more makes the decode
        faster. None goes beyond the last token that its sequence may have."""
        n = len(sequences)
        if n_most < 1 or not n or self._costs.of(n) < self._min_seconds:
            return [()] * n
        left = [max(s.max_tokens - s.n_generated - 1, 0) for s in sequences]
        looks = [self._of(s).look(s.tokens, min(MAX_DRAFTS, most)) for s, most in zip(sequences, left, strict=True)]
        chances, n_guessed = [chance for _, chance in looks], [len(guessed) for guessed, _ in looks]
        counts = plan(self._costs, chances, n_guessed, n_most, self._min_seconds)
        return [
            (*guessed[:count], *[s.tokens[-1]] * (min(count, most) - len(guessed)))
            for s, most, (guessed, _), count in zip(sequences, left, looks, counts, strict=True)
        ]

    def observe(self, n_rows: int, seconds: float) -> None:
        """A decode of nothing but such rows, all of them with logits, took so long."""
        if seconds > 0:  # a clock that stands still tells nothing
            self._costs.observe(n_rows, seconds)

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        self._guesses.pop(sequence.id, None)

    def _of(self, sequence: Sequence) -> Guesses:
        return self._guesses.get(sequence.id) or self._guesses.setdefault(sequence.id, Guesses(self._ends))
