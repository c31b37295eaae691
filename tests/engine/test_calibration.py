"""calibration.py: which decodes are timed, and which results count."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.calibration import LEAST_KEPT, TIMED_ROWS, measure_kept, measure_rows
from service.engine.kv.memory import Memory


class Timed:
    """A context with its own clock, by which each row takes a given time."""

    n_batch = n_ctx = n_outputs_max = 64
    n_tile = 64

    def __init__(self, row_s: float) -> None:
        self.row_s, self.now = row_s, 0.0
        self.shapes: list[int] = []

    def warm_up(self, n_tokens: int, n_logits: int) -> None:
        assert n_logits == n_tokens
        self.shapes.append(n_tokens)
        self.now += self.row_s * n_tokens * (2 if self.shapes.count(n_tokens) == 1 else 1)


def test_rows_are_timed() -> None:
    """The first decode of each number of rows, which builds a graph, does not count."""
    context = Timed(0.001)
    costs = measure_rows(cast(Any, context), lambda: context.now)
    assert {*context.shapes} == {*TIMED_ROWS}
    assert [costs.of(n) for n in (1, 4, 16)] == pytest.approx([0.001, 0.004, 0.016])


@given(st.lists(st.floats(0.0, 1e9), min_size=1), st.sampled_from([1, 32, 64]))
def test_no_clock_stops_it(ticks: list[float], n_ctx: int) -> None:
    """One that stands still, jumps or goes backwards still gives costs, and a number of cells that may be kept."""
    context, clock = Timed(0.0), cycle(ticks)
    context.n_ctx = n_ctx
    assert 0 < measure_rows(cast(Any, context), lambda: next(clock)).of(3) < math.inf
    kept = Keeping()
    assert LEAST_KEPT <= measure_kept(cast(Any, kept), lambda: next(clock)) <= kept.n_ctx


class Keeping:
    """A context in which kept cells take a given time, and some tokens take longer because of another process."""

    n_ctx, can_share, memory = 16384, True, Memory.CUTTABLE

    def __init__(self, cell_s: float = 0.0, disturbed: set[int] | None = None) -> None:
        self.now, self.cell_s, self.disturbed = 0.0, cell_s, disturbed or set()
        self.n_cells = self.n_tokens = 0

    def decode(self, rows: Any) -> None:
        self.n_tokens += 1
        self.now += 0.01 + self.cell_s * self.n_cells + (1.0 if self.n_tokens in self.disturbed else 0.0)

    def forget(self, seq_id: int) -> None:
        pass

    def burden(self, n_tokens: int) -> int:
        self.n_cells = 2048
        return self.n_cells

    def clear(self) -> None:
        self.n_cells = 0


@pytest.mark.parametrize(
    ("cell_s", "expected"), [(0.0, 16384), (1e-9, 16384), (0.002 / 8000, 8000), (0.002 / 1000, LEAST_KEPT)]
)
def test_kept_cells(cell_s: float, expected: int) -> None:
    """As many as take a fifth of a token's time, all if they take almost none, and a minimum in any case."""
    context = Keeping(cell_s)
    assert measure_kept(cast(Any, context), lambda: context.now) == pytest.approx(expected, abs=1)
    assert context.n_cells == 0


def test_an_expensive_result_is_measured_again() -> None:
    """Another process may have delayed the first tokens: fewer cells would be kept as long as this one lives."""
    context = Keeping(0.0, disturbed={4, 5, 6, 7, 8, 9})
    assert measure_kept(cast(Any, context), lambda: context.now) == 16384


def test_a_slow_model_is_measured_briefly() -> None:
    """If a token takes a second only two numbers of rows are timed, once each; without room for rows, fewer."""
    context = Timed(1.0)
    measure_rows(cast(Any, context), lambda: context.now)
    assert context.shapes == [1, 4]
    small = Timed(0.001)
    small.n_ctx = 3
    measure_rows(cast(Any, small), lambda: small.now)
    assert max(small.shapes) == 3
