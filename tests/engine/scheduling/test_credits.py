"""credits.py: a burst of prefill at once, and then a tenant's share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.credits import Credits

PRESENT = ["a", "b", "c", "d"]


def test_a_burst_is_prefilled_at_once() -> None:
    """Whatever the other tenants do: most prompts take no longer."""
    credits = Credits()
    for _ in range(9):
        assert credits.may_read("a")
        credits.took(0.1, {"a": 0.1}, PRESENT)
    assert credits.may_read("a") and credits.may_read("b")


def test_the_long_run_share_is_that_of_one_present_tenant() -> None:
    """It is a share of the time of all steps, including its own."""
    credits, time_s, read_s = Credits(), 0.0, 0.0
    for _ in range(5000):
        reads = 0.1 if credits.may_read("a") else 0.0
        credits.took(0.02 + reads, {"a": reads}, PRESENT)
        time_s, read_s = time_s + 0.02 + reads, read_s + reads
    assert read_s / time_s == pytest.approx(1 / len(PRESENT), abs=0.02)


def test_recovered_credit_is_forgotten() -> None:
    """No state is kept for tenants that owe nothing, and at most a burst is saved up."""
    credits = Credits()
    credits.took(0.5, {"a": 0.5}, ["a", "b"])
    assert repr(credits) == "<Credits {'a': 0.75}>"
    credits.took(0.5, {}, ["b"])
    assert repr(credits) == "<Credits {}>"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.001, 0.5)), max_size=60))
def test_no_tenant_waits_for_ever(steps: list[tuple[str, float]]) -> None:
    """A tenant without credit may prefill again after other steps in proportion to its last chunk."""
    credits = Credits()
    for tenant, read_s in steps:
        if credits.may_read(tenant):
            credits.took(read_s, {tenant: read_s}, "abc")
    for _ in range(400):
        credits.took(0.01, {}, "abc")
    assert all(credits.may_read(tenant) for tenant in "abc")
