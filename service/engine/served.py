"""Tokens computed for each tenant: who has had least is next. Pure.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): nobody saves up
what it did not ask for, since a tenant that comes back begins with the least of those that are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .sequence import Sequence


class Served:
    """By tenant: the prompts that were let in, whole, and each token made."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Served {self._n}>"

    def of(self, tenant: str) -> int:
        return self._n.get(tenant, 0)

    def join(self, tenant: str, present: Iterable[str]) -> None:
        """A tenant asks for something beside those present."""
        others = set(present)
        if tenant not in others:
            # Nobody there: what others have had is not held against them when they come back.
            least = min(map(self.of, others)) if others else max(self._n.values(), default=0)
            self._n[tenant] = max(self.of(tenant), least)

    def charge(self, tenant: str, n: int) -> None:
        """n tokens are its."""
        self._n[tenant] = self.of(tenant) + n

    def first(self, waiting: Iterable[Sequence]) -> Sequence:
        """The next to run: of the tenant that had least, the one that came first."""
        return min(waiting, key=lambda s: self.of(s.tenant))

    def in_turn(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """In the order in which they will run if all goes on as now: each tenant's by arrival."""
        queues: dict[str, deque[Sequence]] = {}
        for sequence in waiting:
            queues.setdefault(sequence.tenant, deque()).append(sequence)
        if len(queues) < 2:
            return list(next(iter(queues.values()), ()))
        n, order = {tenant: self.of(tenant) for tenant in queues}, []
        while queues:
            tenant = min(queues, key=lambda t: n[t])
            sequence = queues[tenant].popleft()
            n[tenant] += len(sequence.tokens)
            order.append(sequence)
            if not queues[tenant]:
                del queues[tenant]
        return order
