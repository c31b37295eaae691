"""timings.py: times add up at every stage."""

from __future__ import annotations

import pytest

from service.streams.timings import Timings


def summary(times: Timings, now: float, *, migrated: bool = False) -> tuple[float, float, float | None, float, float]:
    s = times.summary(now, n_prompt=3, n_generated=2, seed=1, migrated=migrated)
    return s.queue_s, s.prefill_s, s.ttft_s, s.decode_s, s.total_s


def test_a_stream_that_only_waited() -> None:
    """All of its time was spent in the queue."""
    assert summary(Timings(10.0), 13.0) == (3.0, 0.0, None, 0.0, 3.0)


def test_a_stream_that_answered() -> None:
    """Queue, prefill and decode follow each other; the first token is counted from the arrival."""
    times = Timings(10.0)
    times.started_at = 11.0
    assert times.delta(13.0) == 0.0
    assert times.delta(13.5) == 0.5
    assert summary(times, 14.0) == (1.0, 2.0, 3.0, 0.5, 4.0)


@pytest.mark.parametrize(
    ("has_answer", "expected"), [(False, (4.0, 0.0, None, 0.0, 4.0)), (True, (0.0, 0.0, None, 2.0, 4.0))]
)
def test_a_stream_of_another_replica(
    has_answer: bool, expected: tuple[float, float, float | None, float, float]
) -> None:
    """Only its first owner knew when it began: with text, all time counts as decode, and there is no TTFT."""
    times = Timings(10.0)
    assert times.take_over(12.0, has_answer=has_answer) == has_answer
    assert times.waits_since == 12.0
    assert summary(times, 14.0, migrated=True) == expected
