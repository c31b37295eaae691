"""fairness.py: tenants get equal time, and none saves any up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.fairness import FairShareCounter
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text


def sequence(tenant: str, n_prompt: int = 10) -> Sequence:
    return Sequence(id="", tokens=[1] * n_prompt, n_prompt=n_prompt, max_tokens=1, text=Text(), tenant=tenant)


def test_the_least_served_tenant_is_next() -> None:
    """Of two tenants the one with fewer tokens; within a tenant, and of equals, the first to arrive."""
    served = FairShareCounter()
    a, b, again = sequence("a"), sequence("b"), sequence("a")
    assert served.first([a, b, again]) is a
    served.charge("a", 2)
    served.charge("b", 1)
    assert served.first([a, b, again]) is b
    served.charge("b", 1)
    assert served.first([b, a, again]) is b
    assert repr(served) == "<FairShareCounter {'a': 2, 'b': 2}>"


def test_promises_count_for_admission_but_not_as_service() -> None:
    """A tenant with a longer prompt in prefill has not been served more for that than one with a shorter prompt."""
    served = FairShareCounter()
    a, b = sequence("a"), sequence("b")
    served.promise("a", 100)
    served.promise("b", 10)
    assert served.first([a, b]) is b
    assert (served.of("a"), served.of("b")) == (0, 0)
    served.read("a", 60)
    served.promise("a", -40)
    assert (served.of("a"), repr(served)) == (60, "<FairShareCounter {'a': 60}>")
    served.promise("b", 60)
    assert served.first([b, a]) is a


def test_a_new_tenant_begins_with_the_least_present_count() -> None:
    """It is neither ahead of the others for the time it was absent, nor behind the least served of them."""
    served = FairShareCounter()
    served.charge("a", 100)
    served.charge("b", 70)
    served.join("new", ["a", "b", "a"])
    assert served.of("new") == 70


def test_a_tenant_with_a_higher_count_keeps_it() -> None:
    """Leaving and returning does not lower a count."""
    served = FairShareCounter()
    served.charge("a", 100)
    served.charge("b", 70)
    served.join("a", ["b"])
    assert served.of("a") == 100


def test_another_request_of_a_present_tenant_changes_nothing() -> None:
    """Only a tenant that returns is adjusted."""
    served = FairShareCounter()
    served.charge("a", 10)
    served.charge("b", 70)
    served.join("a", ["a", "b"])
    assert served.of("a") == 10


def test_service_without_competition_is_not_held_against_a_tenant() -> None:
    """A tenant that joins an idle engine begins with the counts of those that were there before it."""
    served = FairShareCounter()
    served.join("a", [])
    served.charge("a", 100)
    served.join("b", [])  # a has left
    served.charge("b", 5)
    served.join("a", ["b"])
    assert (served.of("a"), served.of("b")) == (105, 105)


@given(
    waiting=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=12),
    had=st.dictionaries(st.sampled_from("abc"), st.integers(0, 60)),
)
def test_the_order_is_that_of_repeated_first(waiting: list[tuple[str, int]], had: dict[str, int]) -> None:
    """The reported queue positions are the order of admission, if each sequence is charged its prompt."""
    served = FairShareCounter()
    for tenant, n in had.items():
        served.charge(tenant, n)
    rest = [sequence(tenant, n) for tenant, n in waiting]
    order = served.in_turn(rest)
    assert len(order) == len(rest)
    for s in order:
        first = served.first(rest)
        assert (s.tenant, s is first) == (first.tenant, True)
        served.charge(s.tenant, len(s.tokens))
        rest.remove(first)
