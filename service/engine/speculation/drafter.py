"""Which draft tokens each decoding sequence gets in a step, for all that decode together.

prompt_lookup.py proposes, planning.py says how many drafts pay; this holds each sequence's state until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from service.engine.sequences.sequence import Sequence
from service.engine.speculation.costs import DecodeCost
from service.engine.speculation.guesses import DraftStats
from service.engine.speculation.planning import MAX_DRAFTS, MIN_SECONDS, plan


class Drafts:
    """Every sequence's drafts, and what rows cost on this machine."""

    def __init__(
        self,
        ends: Collection[int],
        costs: DecodeCost,
        *,
        min_seconds: float = MIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ends: tokens that end a text. min_seconds: of a decode, below which nothing is drafted. clock: that the costs
        are measured with."""
        self._ends, self._costs, self._min_seconds, self.clock = ends, costs, min_seconds, clock
        self._guesses: dict[str, DraftStats] = {}

    def draft(self, sequences: list[Sequence], n_most: int) -> list[tuple[int, ...]]:
        """Each one's drafts, n_most at most together: proposed tokens, then filler where one row more makes the decode
        faster. None exceeds its sequence's max_tokens."""
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

    def seconds(self, n_rows: int) -> float:
        """What a decode of n_rows takes, as far as it is known."""
        return self._costs.of(n_rows)

    def observe(self, n_rows: int, seconds: float) -> None:
        """A decode of n_rows, all of them with logits, took `seconds`."""
        self._costs.observe(n_rows, seconds)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._guesses.pop(sequence.id, None)

    def _of(self, sequence: Sequence) -> DraftStats:
        found = self._guesses.get(sequence.id)
        if found is None:
            found = self._guesses[sequence.id] = DraftStats(self._ends)
        return found
