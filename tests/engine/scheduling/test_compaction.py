"""compaction.py: when the live cells are copied together."""

from __future__ import annotations

import pytest

from service.engine.kv.cells import LEAST_SCATTERED, Cells
from service.engine.scheduling.compaction import REST, Compaction


def holed(*, in_order: bool = False) -> Cells:
    """600 live cells, after 400 freed ones."""
    cells = Cells(2000, in_order=in_order)
    cells.grow(0, 400)
    cells.grow(1, 600)
    cells.drop(0)
    return cells


@pytest.mark.parametrize("for_speed", [True, False])
def test_compaction_for_speed_is_optional(for_speed: bool) -> None:
    """It is due before a long prompt into holes, if enabled; never before a short one."""
    compaction = Compaction(holed(), for_speed=for_speed)
    assert compaction.is_due(32, LEAST_SCATTERED, 0.0) == for_speed
    assert not compaction.is_due(32, LEAST_SCATTERED - 1, 0.0)


def test_compaction_for_speed_takes_a_hundredth_of_the_time() -> None:
    """After one that took 0.1 s the next one waits, however many prompts arrive."""
    compaction = Compaction(holed(), for_speed=True)
    compaction.took(0.1, 1.1)
    due = [compaction.is_due(32, LEAST_SCATTERED, now) for now in (1.1, 1.1 + 0.1 * REST)]
    assert due == [False, True]


def test_a_necessary_compaction_does_not_wait() -> None:
    """Without free cells it is due at any time, and frequent if the last one was recent."""
    compaction = Compaction(holed(in_order=True), for_speed=False)
    compaction.took(0.1, 1.1)
    assert [compaction.is_due(n, 0, 1.2) for n in (1000, 1001)] == [False, True]
    assert [compaction.is_frequent(now) for now in (1.2, 1.1 + 0.1 * REST)] == [True, False]
