"""Tokens computed for each tenant: the least served tenant is next. Pure.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): idle tenants save up
no credit, since a tenant that returns begins with the minimum of the active ones. A prompt is counted as it is
prefilled: if it were counted whole at admission, a new tenant would begin with all of another's long prompt that had
hardly been started, and wait for it (31 s with one of 6,500 tokens, 0.5B model).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from service.engine.sequences.sequence import Sequence


class FairShareCounter:
    """By tenant: prompt tokens prefilled plus tokens generated; and separately the promised ones, the rest of its
    admitted prompts."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._promised: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<FairShareCounter {self._n}>"

    def of(self, tenant: str) -> int:
        """Tokens computed."""
        return self._n.get(tenant, 0)

    def _soon(self, tenant: str) -> int:
        """Tokens computed and promised."""
        return self.of(tenant) + self._promised.get(tenant, 0)

    def join(self, tenant: str, present: Iterable[str]) -> None:
        """A tenant submits a request; present: the active tenants."""
        others = set(present)
        if tenant not in others:
            # None active: others' past use does not count against them when they return.
            least = min(map(self.of, others)) if others else max(self._n.values(), default=0)
            self._n[tenant] = max(self.of(tenant), least)

    def charge(self, tenant: str, n: int) -> None:
        """Count n tokens for a tenant."""
        self._n[tenant] = self.of(tenant) + n

    def promise(self, tenant: str, n: int) -> None:
        """A prompt with n tokens to prefill was admitted; n < 0: -n promised ones will not be prefilled."""
        self._promised[tenant] = self._promised.get(tenant, 0) + n

    def read(self, tenant: str, n: int) -> None:
        """n of the promised tokens were prefilled."""
        self.promise(tenant, -n)
        self.charge(tenant, n)

    def first(self, waiting: Iterable[Sequence]) -> Sequence:
        """The next to run: the oldest of the tenant with the fewest tokens, computed and promised."""
        return min(waiting, key=lambda s: self._soon(s.tenant))

    def in_turn(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """In the order in which they will run if nothing changes: each tenant's by arrival."""
        queues: dict[str, deque[Sequence]] = {}
        for sequence in waiting:
            queues.setdefault(sequence.tenant, deque()).append(sequence)
        if len(queues) < 2:
            return list(next(iter(queues.values()), ()))
        n, order = {tenant: self._soon(tenant) for tenant in queues}, []
        while queues:
            tenant = min(queues, key=lambda t: n[t])
            sequence = queues[tenant].popleft()
            n[tenant] += len(sequence.tokens)
            order.append(sequence)
            if not queues[tenant]:
                del queues[tenant]
        return order
