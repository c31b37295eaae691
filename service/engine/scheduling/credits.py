"""How much time a tenant's prefill may take while other tenants' streams run: its share, after a burst. Pure.

A step with prefill takes at least as long as the smallest chunk, 32 tokens, on a CPU perhaps five times its decode
time: with prefill in each step one tenant's long prompt would take most of the time, however many others stream. So a
tenant has a token bucket of seconds: it earns its share of each step, and pays for the prefill of its prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

BURST_S = 1.0  # of prefill: enough for most prompts, which are then not delayed


class Credits:
    """By tenant; only those that have spent some are stored."""

    def __init__(self) -> None:
        self._left_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Credits { ({tenant: round(s, 3) for tenant, s in self._left_s.items()}) }>"

    def may_read(self, tenant: str) -> bool:
        """Whether a chunk of its prompts may be prefilled while other tenants' streams run."""
        return self._left_s.get(tenant, BURST_S) > 0

    def took(self, step_s: float, read_s: Mapping[str, float], present: Collection[str]) -> None:
        """A step took step_s, of it read_s for each tenant's prefill; present: tenants that run or wait."""
        earned_s = step_s / max(1, len(present))
        for tenant in {*self._left_s, *read_s}:
            left_s = self._left_s.get(tenant, BURST_S) + earned_s - read_s.get(tenant, 0.0)
            self._left_s[tenant] = left_s
            if left_s >= BURST_S:
                del self._left_s[tenant]
