"""Tokens computed for each tenant: the tenant that has had least is next. Pure.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): nobody saves up
what it did not ask for, since a tenant that comes back begins with the least of those that are there. A prompt is
counted as it is read: counted whole when it is let in, a newcomer would begin with all of a long one that had hardly
been begun, and wait for it (31 s beside 6,500 tokens, 0.5B model).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .sequence import Sequence


class Served:
    """By tenant: what was read of its prompts, and each token made; and apart what is promised to it, the rest of those
    prompts that were let in."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._promised: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Served {self._n}>"

    def of(self, tenant: str) -> int:
        """Tokens computed."""
        return self._n.get(tenant, 0)

    def _soon(self, tenant: str) -> int:
        """Those, and the promised ones."""
        return self.of(tenant) + self._promised.get(tenant, 0)

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

    def promise(self, tenant: str, n: int) -> None:
        """A prompt with n tokens to read was let in; n < 0: as many of a promised one will not be."""
        self._promised[tenant] = self._promised.get(tenant, 0) + n

    def read(self, tenant: str, n: int) -> None:
        """n of the promised tokens were read."""
        self.promise(tenant, -n)
        self.charge(tenant, n)

    def first(self, waiting: Iterable[Sequence]) -> Sequence:
        """The next to run: of the tenant that had least, with what is promised to it, the one that came first."""
        return min(waiting, key=lambda s: self._soon(s.tenant))

    def in_turn(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """In the order in which they will run if all goes on as now: each tenant's by arrival."""
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
