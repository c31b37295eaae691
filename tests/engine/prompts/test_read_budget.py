"""read_budget.py: a burst is read at once, then a quarter of the time is a tenant's, and others never wait for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.prompts.read_budget import AT_ONCE_S, REST, PromptBudget


class Reader:
    """A clock that moves while one reads and while one waits, and one that moves while one reads."""

    def __init__(self) -> None:
        self.now, self.computed = 100.0, 0.0
        self.budget = PromptBudget(lambda: self.computed, lambda: self.now)

    def read(self, tenant: str, took_s: float, *, beside: float = 1.0) -> float:
        """When it was begun, as soon as it might be; it took `beside` times as long as it computed."""
        self.now += self.budget.wait_s(tenant)
        began = self.now
        with self.budget.reading(tenant):
            self.now += took_s * beside
            self.computed += took_s
        return began


def test_prompts_that_arrive_together_are_read_at_once() -> None:
    """A second's worth: what many readers ask of one key in a moment is no attack."""
    reader = Reader()
    began = [reader.read("a", AT_ONCE_S / 10) for _ in range(10)]
    assert began == pytest.approx([100 + i * AT_ONCE_S / 10 for i in range(10)])


def test_in_the_long_run_a_tenant_has_a_quarter_of_the_time() -> None:
    """However it asks."""
    reader = Reader()
    for _ in range(400):
        reader.read("a", 0.05)
    assert 400 * 0.05 / (reader.now - 100) == pytest.approx(1 / REST, abs=0.02)


def test_other_tenants_do_not_wait() -> None:
    """Each has its own second."""
    reader = Reader()
    reader.read("a", 20.0)
    assert reader.budget.wait_s("a") == pytest.approx(REST * (20.0 - AT_ONCE_S))
    assert reader.budget.wait_s("b") == 0.0


def test_a_busy_machine_makes_no_prompt_dearer() -> None:
    """What counts is what was computed, not how long it had to wait for a core."""
    reader = Reader()
    for _ in range(10):
        reader.read("a", AT_ONCE_S / 10, beside=10.0)
    assert reader.budget.wait_s("a") == 0.0


def test_what_is_paid_is_forgotten() -> None:
    """So nothing is kept of tenants that are gone."""
    reader = Reader()
    reader.read("a", 1.0)
    reader.now += REST
    reader.read("b", 0.1)
    assert repr(reader.budget) == "<PromptBudget 1 tenants in debt>"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2), st.floats(0, 5)), max_size=40))
def test_no_tenant_has_more_than_its_burst_and_its_share(asked: list[tuple[str, float, float]]) -> None:
    """Over any stretch of time: a second, its part of what went by, and the one that was begun last."""
    reader = Reader()
    of_a: list[tuple[float, float]] = []
    for tenant, took_s, pause_s in asked:
        reader.now += pause_s
        began = reader.read(tenant, took_s)
        if tenant == "a":
            of_a.append((began, took_s))
    for i, (first, _) in enumerate(of_a):
        for j in range(i, len(of_a)):
            assert sum(took for _, took in of_a[i:j]) <= AT_ONCE_S + (of_a[j][0] - first) / REST + 1e-6
