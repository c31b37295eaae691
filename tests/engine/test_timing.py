"""timing.py: which decodes are timed, and what of them counts."""

from __future__ import annotations

from typing import Any, cast

import pytest

from service.engine.timing import TIMED_ROWS, measure_rows


class Timed:
    """A context in whose time a row costs what it is told."""

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
    """The first decode of each number of rows, which makes a graph, does not count."""
    context = Timed(0.001)
    costs = measure_rows(cast(Any, context), lambda: context.now)
    assert {*context.shapes} == {*TIMED_ROWS}
    assert [costs.of(n) for n in (1, 4, 16)] == pytest.approx([0.001, 0.004, 0.016])


def test_a_slow_model_is_not_held_up() -> None:
    """Where a token takes a second only two numbers of rows are timed, once each; without room for rows, fewer."""
    context = Timed(1.0)
    measure_rows(cast(Any, context), lambda: context.now)
    assert context.shapes == [1, 4]
    small = Timed(0.001)
    small.n_ctx = 3
    measure_rows(cast(Any, small), lambda: small.now)
    assert max(small.shapes) == 3
