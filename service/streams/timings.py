"""When a stream arrived, began, answered and ended, and what its summary tells of that. Pure.

Times are the caller's, monotonic, in seconds.
"""

from __future__ import annotations

from service.dialects.events import Summary


class Timings:
    """One stream's."""

    __slots__ = ("arrived_at", "first_at", "last_at", "started_at", "waits_since")

    def __init__(self, arrived_at: float) -> None:
        self.arrived_at = arrived_at
        self.waits_since = arrived_at  # at this replica
        self.started_at: float | None = None
        self.first_at: float | None = None  # its first delta's time
        self.last_at = arrived_at

    def delta(self, now: float) -> float:
        """A delta came. Returns the seconds since the one before; 0: it is the first, or one step made both."""
        gap_s = 0.0 if self.first_at is None else now - self.last_at
        self.first_at = now if self.first_at is None else self.first_at
        self.last_at = now
        return gap_s

    def take_over(self, now: float, *, has_answer: bool) -> bool:
        """From now on it is made at this replica. True: it counts as started."""
        self.waits_since = now
        if has_answer:
            # Only its first owner knew its real start: all of it counts as decoding, and no TTFT is reported.
            self.started_at = self.first_at = self.arrived_at
            self.last_at = now
        return has_answer

    def summary(self, now: float, *, n_prompt: int, n_generated: int, seed: int, migrated: bool) -> Summary:
        """What it amounts to if it is cancelled now."""
        started = now if self.started_at is None else self.started_at
        first = now if self.first_at is None else self.first_at
        return Summary(
            finish_reason="cancelled",
            n_prompt=n_prompt,
            n_cached=0,
            n_generated=n_generated,
            seed=seed,
            queue_s=started - self.arrived_at,
            prefill_s=first - started if self.started_at is not None else 0.0,
            ttft_s=None if self.first_at is None or migrated else first - self.arrived_at,
            decode_s=self.last_at - first if self.first_at is not None else 0.0,
            total_s=now - self.arrived_at,
        )
