"""A tenant's token bucket of CPU time for tokenizing long prompts: a second at once, later a quarter of a core.

Streams decode while that process runs. Kept busy by one tenant it would take a core for itself, and the engine would
decode with a thread fewer (host/threads.py), for prompts that may have been cancelled before they were tokenized.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE_S = 1.0  # of CPU time: sixty long-context prompts that arrive together
REST = 4.0  # times what a prompt took: a quarter of a core; at three quarters a thread is lost (host/threads.py)


class PromptBudget:
    """By tenant. A generic cell rate algorithm (ITU-T I.371): one number for each tenant in debt."""

    def __init__(self, cpu_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """cpu_s: the preparer's CPU seconds so far, which another process's load on its core does not increase."""
        self._cpu_s, self._clock = cpu_s, clock
        self._paid_at: dict[str, float] = {}  # when a tenant's debt will have been paid

    def __repr__(self) -> str:
        return f"<PromptBudget {len(self._paid_at)} tenants in debt>"

    def wait_s(self, tenant: str) -> float:
        """Seconds until its next prompt may be tokenized; 0: it may be now."""
        return max(0.0, self._paid_at.get(tenant, 0.0) - self._clock() - REST * AT_ONCE_S)

    @contextmanager
    def reading(self, tenant: str) -> Iterator[None]:
        """Charges the CPU time that is spent within it to the tenant."""
        began = self._cpu_s()
        yield
        now = self._clock()
        paid_at = max(self._paid_at.get(tenant, 0.0), now) + REST * (self._cpu_s() - began)
        self._paid_at = {t: at for t, at in self._paid_at.items() if at > now} | {tenant: paid_at}
