"""What each sequence decodes after its known token: its own drafts, as many as pay off, none beyond its last token."""

from __future__ import annotations

from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text
from service.engine.speculation.costs import DecodeCost
from service.engine.speculation.drafter import Drafts
from service.engine.speculation.planning import MAX_DRAFTS


def costs_of(*seconds: float) -> DecodeCost:
    """Of 1, 2, 3, ... rows."""
    costs = DecodeCost()
    for n, s in enumerate(seconds, 1):
        costs.observe(n, s)
    return costs


def sequence(id: str, tokens: list[int], max_tokens: int = 100) -> Sequence:
    return Sequence(id=id, tokens=tokens, n_prompt=len(tokens), max_tokens=max_tokens, text=Text())


def drafts(*seconds: float) -> Drafts:
    return Drafts([9], costs_of(*seconds or [0.02] * 32))


def test_drafts_from_each_sequences_own_text() -> None:
    """If rows are free each gets what followed earlier in its text; without a match it gets none."""
    a, b, c = sequence("a", [1, 2, 3, 4, 1, 2, 3]), sequence("b", [5, 6, 7, 9, 5, 6, 7]), sequence("c", [1, 2, 3])
    of_a, of_b, of_c = drafts().draft([a, b, c], 60)
    assert of_a[:3] == (4, 1, 2) and of_b == of_c == ()


def test_any_token_fills_up_the_last_row() -> None:
    """If four rows cost less than two, two streams without drafts decode four, the last one the fillers."""
    costs = (0.02, 0.036, 0.048, 0.03, 0.05)
    a, b = sequence("a", [1, 2]), sequence("b", [3, 4])
    assert drafts(*costs).draft([a, b], 60) == [(), (4, 4)]
    assert drafts(*costs).draft([a, b], 1) == [(), ()]
    assert drafts(*costs).draft([a, sequence("b", [3, 4], max_tokens=2)], 60) == [(), (4,)]


def test_no_drafts_beyond_the_last_token() -> None:
    """A sequence that may have n more tokens decodes n - 1 drafts at most: no position is beyond the context."""
    for most, n in ((1, 0), (2, 1), (6, 5), (100, MAX_DRAFTS)):
        s = sequence("a", [1, 2, 3, 4, 1, 2, 3], max_tokens=most)
        assert len(drafts().draft([s], 60)[0]) <= n
    s = sequence("a", [1, 2, 3, 4, 1, 2, 3], max_tokens=4)
    assert drafts().draft([s], 60) == [(4, 1, 2)]


def test_what_was_learnt_lasts_as_long_as_the_sequence() -> None:
    """Drafts that failed are not tried again until the sequence is forgotten."""
    costs = (0.02, 0.026, 0.03, 0.034)
    d, s = drafts(*costs), sequence("a", [1, 2, 3, 4] * 4, max_tokens=1000)
    assert d.draft([s], 60)[0]
    for token in range(50, 90):
        s.tokens += [token, 1, 2, 3]
        d.draft([s], 60)
    assert not d.draft([s], 60)[0]
    d.forget(s)
    d.forget(s)
    assert d.draft([s], 60)[0]


def test_no_drafts_for_fast_decodes_or_without_room() -> None:
    """Below two milliseconds, or without rows or sequences, nothing is looked up."""
    s = sequence("a", [1, 2, 3, 4] * 4)
    assert drafts(*[0.001] * 16).draft([s], 60) == [()]
    assert drafts().draft([s], 0) == [()]
    assert drafts().draft([], 60) == []
    assert Drafts([], costs_of(*[0.001] * 16), min_seconds=0.0).draft([s], 60) != [()]


def test_costs_are_learnt_while_it_runs() -> None:
    """Rows that turn out expensive are decoded no more; a clock that stands still changes nothing."""
    s = sequence("a", [1, 2, 3, 4] * 8)
    d = drafts(*[0.02] * 16)
    n = len(d.draft([s], 60)[0])
    d.observe(1 + n, 0.0)
    assert len(d.draft([s], 60)[0]) == n
    for rows in range(2, 17):
        for _ in range(60):
            d.observe(rows, 0.02 * rows)
            d.observe(1, 0.02)
    assert d.draft([s], 60) == [()]
