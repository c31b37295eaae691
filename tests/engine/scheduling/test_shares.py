"""Which streams a step decodes: each tenant's in turn, so that one tenant's many do not slow down the few of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from service.engine.scheduling import shares as places
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text


def streams(**n_of: int) -> list[Sequence]:
    """Streams of each tenant, named a0, a1, b0."""
    return [
        Sequence(id=f"{tenant}{i}", tokens=[1, 2], n_prompt=1, max_tokens=9, text=Text(), tenant=tenant)
        for tenant, n in n_of.items()
        for i in range(n)
    ]


def chosen(decoding: list[Sequence], most: int = 99, seconds: places.Seconds | None = None) -> Counter[str]:
    return Counter(s.tenant for s in places.choose(decoding, most, seconds))


def linear(n: int) -> float:
    """Each row costs a tenth of the fixed cost."""
    return 10.0 + n


@pytest.mark.parametrize(("n_seq", "present", "share"), [(8, "aab", 4), (8, "", 8), (2, "abc", 1), (7, "aabbc", 2)])
def test_shares(n_seq: int, present: str, share: int) -> None:
    """Each tenant has equally many places, and at least one."""
    assert places.share(n_seq, present) == share


def test_all_are_chosen_if_there_is_room() -> None:
    """A lone tenant's streams slow down no other tenant's; while the cost of rows is unknown, no stream is left out."""
    assert chosen(streams(a=32), seconds=linear) == {"a": 32}
    assert chosen(streams(a=32, b=1)) == {"a": 32, "b": 1}
    assert chosen(streams(a=32, b=1), seconds=lambda n: 1.0) == {"a": 32, "b": 1}, "as on a GPU"


def test_the_largest_tenants_lengthen_the_step_by_two_fifths_at_most() -> None:
    """By two fifths of the time of the other tenants' streams alone."""
    assert chosen(streams(a=32, b=1), seconds=linear) == {"a": 4, "b": 1}, "15 s for 11"
    assert chosen(streams(b=4, a=32, c=2), seconds=linear) == {"a": 6, "b": 4, "c": 2}, "22 s for 16"
    assert chosen(streams(a=6, b=6), seconds=linear) == {"a": 6, "b": 6}, "22 s for 16"


def test_each_tenant_has_at_least_one() -> None:
    """Whatever it costs."""
    assert chosen(streams(a=9, b=1), seconds=lambda n: 10.0**n) == {"a": 1, "b": 1}


def test_places_are_shared_max_min_fairly() -> None:
    """A tenant that needs less than its share gets all it needs, and the others share the rest equally."""
    assert chosen(streams(a=20, b=2, c=9), most=12) == {"a": 5, "b": 2, "c": 5}
    assert chosen(streams(a=1, b=1, c=1), most=2).total() == 2


def test_streams_left_out_longest_come_first() -> None:
    """Within each tenant, and among the tenants if there are more than places; the given order is kept."""
    decoding = streams(a=3, b=1)
    for i, turn in enumerate((5, 3, 4, 5)):
        decoding[i].turn = turn
    assert [s.id for s in places.choose(decoding, 3, None)] == ["a1", "a2", "b0"]
    assert [s.id for s in places.choose(decoding, 1, None)] == ["a1"]


def test_preemption_victims() -> None:
    """The youngest sequences of tenants with more than their share, one by one; never the oldest; all or nothing."""
    running = streams(a=2) + streams(b=1, c=3)  # each of a's and c's holds 10 cells, b's 50

    def held(sequences: Iterable[Sequence]) -> int:
        return sum(50 if s.tenant == "b" else 10 for s in sequences)

    def names(most: int, n_missing: int) -> list[str]:
        return [s.id for s in places.victims(running, held, most, n_missing)]

    assert names(20, 5) == ["c2"]
    assert names(20, 11) == ["c2", "b0"], "two of c's hold no more than its share"
    assert names(20, 61) == []
    assert names(0, 90) == ["c2", "c1", "c0", "b0", "a1"]
    assert names(0, 91) == []
    running[-1].n_safe = len(running[-1].tokens) + 1
    assert names(20, 5) == ["c1"], "a preempted stream is safe for a while"
