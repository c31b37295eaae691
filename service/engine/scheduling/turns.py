"""Prefill order: of the least served tenant's prompts alternately the one with the least left and the oldest. Pure.

Shortest remaining first minimizes the mean wait (Schrage, 1968), but starves long ones; oldest first makes a short
prompt wait for all of a long one: 41 s instead of 0.1 behind 9,900 tokens. Alternating, a short one takes at most twice
its time alone plus a chunk, whatever came before, and a long one at most twice its own, whatever comes after.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.engine.scheduling.fairness import FairShareCounter
from service.engine.sequences.sequence import Sequence


class Turns:
    """One turn is one step with prefill."""

    def __init__(self, served: FairShareCounter) -> None:
        self._served = served
        self._is_shortest = True

    def __repr__(self) -> str:
        return f"<Turns {'shortest' if self._is_shortest else 'oldest'} first>"

    def rank(self, sequence: Sequence) -> tuple[int, int]:
        """The lower, the sooner."""
        return self._served.of(sequence.tenant), sequence.n_pending if self._is_shortest else 0

    def order(self, prefilling: Iterable[Sequence]) -> list[Sequence]:
        """The order in which they get the step's prefill tokens; prefilling: the oldest first."""
        return sorted(prefilling, key=self.rank)

    def pass_on(self) -> None:
        """A step had prefill: the next turn has the other order."""
        self._is_shortest = not self._is_shortest
