"""credits.py: a burst of reading at once, and then a tenant's share of the time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.credits import Credits

PRESENT = ["a", "b", "c", "d"]


def test_a_burst_is_read_at_once() -> None:
    """Whatever the others do: most prompts take no longer."""
    credits = Credits()
    for _ in range(9):
        assert credits.may_read("a")
        credits.took(0.1, {"a": 0.1}, PRESENT)
    assert credits.may_read("a") and credits.may_read("b")


def test_in_the_long_run_it_is_the_share_of_one_of_those_present() -> None:
    """Of the time of all steps, with its own ones in it."""
    credits, time_s, read_s = Credits(), 0.0, 0.0
    for _ in range(5000):
        reads = 0.1 if credits.may_read("a") else 0.0
        credits.took(0.02 + reads, {"a": reads}, PRESENT)
        time_s, read_s = time_s + 0.02 + reads, read_s + reads
    assert read_s / time_s == pytest.approx(1 / len(PRESENT), abs=0.02)


def test_what_is_earned_back_is_forgotten() -> None:
    """Nothing is kept of tenants that owe nothing, and no more than a burst is saved up."""
    credits = Credits()
    credits.took(0.5, {"a": 0.5}, ["a", "b"])
    assert repr(credits) == "<Credits {'a': 0.75}>"
    credits.took(0.5, {}, ["b"])
    assert repr(credits) == "<Credits {}>"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.001, 0.5)), max_size=60))
def test_nobody_waits_for_ever(steps: list[tuple[str, float]]) -> None:
    """A tenant without credit may read again after as many steps of others as its last slice was long."""
    credits = Credits()
    for tenant, read_s in steps:
        if credits.may_read(tenant):
            credits.took(read_s, {tenant: read_s}, "abc")
    for _ in range(400):
        credits.took(0.01, {}, "abc")
    assert all(credits.may_read(tenant) for tenant in "abc")
