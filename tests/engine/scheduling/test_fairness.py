"""fairness.py: tenants get equal time, and nobody saves any up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.fairness import FairShareCounter
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text


def sequence(tenant: str, n_prompt: int = 10) -> Sequence:
    return Sequence(id="", tokens=[1] * n_prompt, n_prompt=n_prompt, max_tokens=1, text=Text(), tenant=tenant)


def test_who_had_least_is_next() -> None:
    """Of two tenants the one that had fewer tokens; of one tenant's, and of equals, the first to come."""
    served = FairShareCounter()
    a, b, again = sequence("a"), sequence("b"), sequence("a")
    assert served.first([a, b, again]) is a
    served.charge("a", 2)
    served.charge("b", 1)
    assert served.first([a, b, again]) is b
    served.charge("b", 1)
    assert served.first([b, a, again]) is b
    assert repr(served) == "<FairShareCounter {'a': 2, 'b': 2}>"


def test_promises_count_for_who_is_let_in_and_not_for_who_has_had_least() -> None:
    """Of two whose prompts are read, the one with the longer prompt has had no more for that."""
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


def test_a_newcomer_begins_with_the_least_of_those_present() -> None:
    """It is neither before them by what it had not asked for, nor behind the least of them."""
    served = FairShareCounter()
    served.charge("a", 100)
    served.charge("b", 70)
    served.join("new", ["a", "b", "a"])
    assert served.of("new") == 70


def test_who_had_more_than_those_present_keeps_its_count() -> None:
    """Leaving and coming back makes nobody's count smaller."""
    served = FairShareCounter()
    served.charge("a", 100)
    served.charge("b", 70)
    served.join("a", ["b"])
    assert served.of("a") == 100


def test_one_more_of_a_tenant_present_changes_nothing() -> None:
    """Only who comes back is counted as others are."""
    served = FairShareCounter()
    served.charge("a", 10)
    served.charge("b", 70)
    served.join("a", ["a", "b"])
    assert served.of("a") == 10


def test_what_was_had_while_nobody_else_asked_is_not_held_against_it() -> None:
    """A tenant that comes to an idle engine begins with as much as those had that were there before it."""
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
def test_the_order_is_that_of_who_is_first_again_and_again(waiting: list[tuple[str, int]], had: dict[str, int]) -> None:
    """Positions in the queue are told as the sequences will be let in, if each is charged its prompt."""
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
