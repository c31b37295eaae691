"""How much of a core one tenant may have long prompts read with: a second of it at once, and a quarter in the long run.

Streams decode beside that process. Asked without end by one tenant it would want a core for itself, and the engine
would decode with a thread fewer (threads.py), for prompts that their readers may have left before they were read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE_S = 1.0  # of CPU time: sixty prompts of a long context that arrive together
REST = 4.0  # times what a prompt took: a quarter of a core, and a thread is given up for three quarters (threads.py)


class PromptBudget:
    """By tenant. A generic cell rate algorithm (ITU-T I.371): one number each, of those that are in debt."""

    def __init__(self, cpu_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """cpu_s: what those who read have computed, in seconds: a neighbour that takes their core makes none dearer."""
        self._cpu_s, self._clock = cpu_s, clock
        self._paid_at: dict[str, float] = {}  # when a tenant's readings will have been paid for

    def __repr__(self) -> str:
        return f"<PromptBudget {len(self._paid_at)} tenants in debt>"

    def wait_s(self, tenant: str) -> float:
        """Seconds until its next one may be read; 0: it may be now."""
        return max(0.0, self._paid_at.get(tenant, 0.0) - self._clock() - REST * AT_ONCE_S)

    @contextmanager
    def reading(self, tenant: str) -> Iterator[None]:
        """One of its prompts is read within it, and the time that this takes is charged to it."""
        began = self._cpu_s()
        yield
        now = self._clock()
        paid_at = max(self._paid_at.get(tenant, 0.0), now) + REST * (self._cpu_s() - began)
        self._paid_at = {t: at for t, at in self._paid_at.items() if at > now} | {tenant: paid_at}
