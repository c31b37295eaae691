"""read_budget.py: a burst is prepared at once, then a tenant has a quarter of the time; others never wait for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.prompts.read_budget import AT_ONCE_S, REST, PromptBudget


class Reader:
    """A clock that advances while a prompt is prepared and while one waits, and a CPU clock that advances only while
    one is prepared."""

    def __init__(self) -> None:
        self.now, self.computed = 100.0, 0.0
        self.budget = PromptBudget(lambda: self.computed, lambda: self.now)

    def read(self, tenant: str, took_s: float, *, slowdown: float = 1.0) -> float:
        """The time at which it began, as soon as allowed; it took `slowdown` times its CPU time."""
        self.now += self.budget.wait_s(tenant)
        began = self.now
        with self.budget.reading(tenant):
            self.now += took_s * slowdown
            self.computed += took_s
        return began


def test_prompts_that_arrive_together_are_prepared_at_once() -> None:
    """Up to a second's worth: many readers' requests with one key in a moment are not an attack."""
    reader = Reader()
    began = [reader.read("a", AT_ONCE_S / 10) for _ in range(10)]
    assert began == pytest.approx([100 + i * AT_ONCE_S / 10 for i in range(10)])


def test_in_the_long_run_a_tenant_has_a_quarter_of_the_time() -> None:
    """Whatever its requests are."""
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


def test_a_busy_machine_makes_no_prompt_more_expensive() -> None:
    """CPU time counts, not the time of waiting for a core."""
    reader = Reader()
    for _ in range(10):
        reader.read("a", AT_ONCE_S / 10, slowdown=10.0)
    assert reader.budget.wait_s("a") == 0.0


def test_paid_debts_are_forgotten() -> None:
    """So no state is kept for tenants that are gone."""
    reader = Reader()
    reader.read("a", 1.0)
    reader.now += REST
    reader.read("b", 0.1)
    assert repr(reader.budget) == "<PromptBudget 1 tenants in debt>"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2), st.floats(0, 5)), max_size=40))
def test_no_tenant_has_more_than_its_burst_and_its_share(asked: list[tuple[str, float, float]]) -> None:
    """Over any interval: a second, its share of the interval, and the last prompt begun."""
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
