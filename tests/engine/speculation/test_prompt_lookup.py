"""Draft tokens from a text's own past, compared with a search through all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.speculation.prompt_lookup import LENGTHS, Guess, Lookup

texts = st.lists(st.integers(0, 3), max_size=60)


def searched(tokens: list[int], n: int) -> Guess:
    """The same, by comparing every position."""
    for length in LENGTHS:
        for at in range(len(tokens) - 1, length - 1, -1):
            if tokens[at - length : at] == tokens[-length:]:
                period = tokens[at:]
                return Guess((period * (n // len(period) + 1))[:n], length)
    return Guess([], 0)


@given(texts, st.integers(1, 20))
def test_as_a_search_finds_it(tokens: list[int], n: int) -> None:
    """What followed the last occurrence of the longest match; after the end of the text the repetition is continued."""
    assert Lookup().guess(tokens, n) == searched(tokens, n)


@given(texts, st.lists(st.integers(1, 9), max_size=20))
def test_a_text_that_grows(tokens: list[int], sizes: list[int]) -> None:
    """A draft after every few tokens is the same as from the whole text at once."""
    lookup, n = Lookup(), 0
    for size in sizes:
        n += size
        assert lookup.guess(tokens[:n], 5) == searched(tokens[:n], 5)


def test_the_last_match_counts() -> None:
    """Of two matches the later one is used, and three tokens before two."""
    assert Lookup().guess([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 2) == Guess([5, 1], 3)
    assert Lookup().guess([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2) == Guess([4, 9], 3)
    assert Lookup().guess([2, 3, 5, 1, 2, 3], 2) == Guess([5, 1], 2)


def test_an_end_token_is_never_proposed() -> None:
    """A draft ends before a token that ends an answer: nothing would follow it."""
    tokens = [1, 2, 3, 4, 7, 5, 1, 2, 3]
    assert Lookup([7]).guess(tokens, 5) == Guess([4], 3)
    assert Lookup([4]).guess(tokens, 5) == Guess([], 3)


def test_no_draft() -> None:
    """No tokens, too few, no repetition, or none requested."""
    for tokens in ([], [1], [1, 1], [1, 2, 3, 4, 5]):
        assert Lookup().guess(tokens, 4) == Guess([], 0)
    assert Lookup().guess([1, 2, 1, 2, 1, 2], 0) == Guess([], 0)
