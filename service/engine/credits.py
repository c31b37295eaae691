"""How much of the time a tenant's prompts may take beside other tenants' streams: its share, after a burst. Pure.

A step that reads is as long as its least slice, 32 tokens, which on a CPU may be five times what its streams take:
were each step to read, one tenant's long prompt would have most of the time, however many others stream. So a tenant
has a token bucket of seconds: it earns its part of each step, and pays for what is read of its prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

BURST_S = 1.0  # of reading: what most prompts take, which are read at once


class Credits:
    """By tenant, of those that have spent some."""

    def __init__(self) -> None:
        self._left_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Credits { ({tenant: round(s, 3) for tenant, s in self._left_s.items()}) }>"

    def may_read(self, tenant: str) -> bool:
        """Whether a slice of its prompts may be read beside others' streams."""
        return self._left_s.get(tenant, BURST_S) > 0

    def took(self, step_s: float, read_s: Mapping[str, float], present: Collection[str]) -> None:
        """A step has taken step_s, of it read_s for each tenant's prompts; present: all that run or wait."""
        earned_s = step_s / max(1, len(present))
        for tenant in {*self._left_s, *read_s}:
            left_s = self._left_s.get(tenant, BURST_S) + earned_s - read_s.get(tenant, 0.0)
            self._left_s[tenant] = left_s
            if left_s >= BURST_S:
                del self._left_s[tenant]
