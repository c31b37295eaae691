"""Which tokens may not come next."""

from __future__ import annotations

from service.engine.sampling.forbidden import Forbidden

NOTHING: frozenset[int] = frozenset()


def test_nothing_by_default() -> None:
    """Without a minimum of tokens and without words no token is forbidden, nor can one ever be."""
    forbidden = Forbidden(ends=[2, 4])
    assert (forbidden.varies, forbidden.always, forbidden.ever, forbidden.after([5])) == (False, NOTHING, NOTHING, [])


def test_no_end_before_min_tokens() -> None:
    """Each end is forbidden until the answer has min_tokens."""
    forbidden = Forbidden(ends=[4, 2], min_tokens=2)
    assert (forbidden.after([]), forbidden.after([7]), forbidden.after([7, 7])) == ([2, 4], [2, 4], [])
    assert (forbidden.varies, forbidden.ever) == (True, frozenset({2, 4}))


def test_a_word_of_one_token() -> None:
    """It is always forbidden: no state is needed for it."""
    forbidden = Forbidden(words=[(5,), (6,)])
    assert (forbidden.varies, forbidden.always, forbidden.after([5])) == (False, frozenset({5, 6}), [])


def test_a_word_of_several_tokens() -> None:
    """Its last token may not follow the others, and may come anywhere else."""
    forbidden = Forbidden(words=[(1, 2, 3), (2, 9), (1, 2, 4)])
    assert forbidden.after([1, 2]) == forbidden.after([3, 1, 2]) == [3, 9, 4]
    assert forbidden.after([7, 2]) == [9]
    assert forbidden.after([2]) == [9]
    assert forbidden.after([]) == forbidden.after([1]) == forbidden.after([1, 2, 1]) == []
    assert (forbidden.varies, forbidden.always, forbidden.ever) == (True, NOTHING, frozenset({3, 4, 9}))


def test_a_word_of_one_token_again_and_again() -> None:
    """The same token may be several of its tokens."""
    forbidden = Forbidden(words=[(1, 1, 1)])
    assert [forbidden.after([1] * n) for n in range(4)] == [[], [], [1], [1]]
