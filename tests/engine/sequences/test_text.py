"""Bytes to text: however tokens are cut, the same text results, and no part of a stop string is ever sent."""

from __future__ import annotations

import codecs
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sequences.text import Text

# Few letters, so that stop strings occur, overlap and almost occur; characters of two and four bytes among them.
letters = st.sampled_from("ab\u20ac\U0001f98a")
texts = st.text(letters, max_size=24)
stops = st.lists(st.text(letters, min_size=1, max_size=4), max_size=4)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


def run(text: Text, pieces: list[bytes]) -> str:
    return "".join([*(text.push(p) for p in pieces), text.push(b"", final=True)])


@given(st.text(), st.lists(st.integers(0, 60)))
def test_any_cut_of_any_text(text: str, cuts: list[int]) -> None:
    """However a text's bytes are cut into tokens, the text arrives unchanged."""
    assert run(Text(), pieces_of(text.encode(), cuts)) == text


@given(st.binary(), st.lists(st.integers(0, 60)))
def test_any_cut_of_any_bytes(data: bytes, cuts: list[int]) -> None:
    """Invalid UTF-8 becomes the same replacement characters wherever it is cut, except for an incomplete end."""
    assert run(Text(), pieces_of(data, cuts)) == codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def test_its_length_so_far() -> None:
    """All whole characters are counted, those that are held back as well."""
    text = Text(["bc"])
    assert [(text.push(piece), text.n_characters) for piece in (b"a", b"b", b"\xe2\x82", b"\xac")] == [
        ("a", 1),
        ("", 2),
        ("", 2),
        ("b\u20ac", 3),
    ]


def test_incomplete_character_waits() -> None:
    """No part of a character is sent before all of it is there; complete characters are sent at once."""
    fox = "\U0001f98a".encode()
    text = Text()
    assert [text.push(b"x" + fox[:1]), text.push(fox[1:3]), text.push(fox[3:] + b"y")] == ["x", "", "\U0001f98ay"]


def test_incomplete_character_at_the_end() -> None:
    """An answer that ends inside a character ends before it."""
    text = Text(["stop"])
    assert text.push(b"a\xf0\x9f") == "a"
    assert text.push(b"", final=True) == ""


@given(texts, st.text(letters, min_size=1, max_size=4), st.lists(st.integers(0, 60)))
def test_one_stop_string(text: str, stop: str, cuts: list[int]) -> None:
    """Wherever the tokens end, the text extends to the first stop string, and `stopped` reports it."""
    out = Text([stop])
    assert run(out, pieces_of(text.encode(), cuts)) == text.partition(stop)[0]
    assert out.stopped == (stop in text)


@given(texts, stops, st.lists(st.integers(0, 60)))
def test_several_stop_strings(text: str, stop: list[str], cuts: list[int]) -> None:
    """The first token that completes a stop string ends the text, before the earliest stop string that it completed."""
    pieces = pieces_of(text.encode(), cuts)
    expected, seen = text, b""
    for piece in pieces:
        seen += piece
        so_far = seen.decode("utf-8", "ignore")
        if found := [so_far.find(s) for s in stop if s in so_far]:
            expected = so_far[: min(found)]
            break
    out = Text(stop)
    assert run(out, pieces) == expected
    assert out.stopped == any(s in text for s in stop)
    assert not any(s in expected for s in stop)


@given(texts, stops, st.lists(st.integers(0, 60)))
def test_holds_back_no_more_than_it_must(text: str, stop: list[str], cuts: list[int]) -> None:
    """After each token everything has been sent except what could still become a stop string or a character."""
    out, sent, seen = Text(stop), "", b""
    for piece in pieces_of(text.encode(), cuts):
        sent += out.push(piece)
        seen += piece
        if out.stopped:
            return
        so_far = seen.decode("utf-8", "ignore")
        undecided = [n for s in stop for n in range(1, len(s)) if so_far.endswith(s[:n])]
        assert sent == so_far[: len(so_far) - max(undecided, default=0)]


def test_nothing_comes_after_a_stop_string() -> None:
    """After a stop neither later tokens nor the end bring any text."""
    text = Text(["END"])
    assert text.push(b"one END two") == "one "
    assert text.stopped
    assert [text.push(b"three"), text.push(b"END"), text.push(b"", final=True)] == ["", "", ""]


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        (["\n\n"], ["a\n", "b\n", "\nc"], ["a", "\nb", ""]),  # a false start is released with the next token
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", ""]),  # a false start within which the real one begins
        (["ab", "abc"], ["a", "bc"], ["", ""]),  # one is a prefix of the other
        (["bc", "abcd"], ["xa", "b", "c", "d"], ["x", "", "a", ""]),  # the one that is complete first
        (["bc", "abcd"], ["xabcd"], ["x"]),  # both in one token: the one that begins first
        ([""], ["a", ""], ["a", ""]),  # an empty one is ignored
        (["\u20ac"], ["a", "\u20ac"], ["a", ""]),
    ],
)
def test_stop_strings(stop: list[str], pieces: list[str], expected: list[str]) -> None:
    """Each token brings exactly the text that can no longer be part of a stop string."""
    text = Text(stop)
    assert [text.push(p.encode()) for p in pieces] == expected


@pytest.mark.parametrize(
    ("pieces", "expected"), [(["ab", "cd"], ["a", "bc"]), (["abcd"], ["abc"]), (["ab", "ad"], ["a", "bad"])]
)
def test_a_stop_string_may_be_part_of_the_text(pieces: list[str], expected: list[str]) -> None:
    """Where that is asked for the text ends with it, and not with what came in the same token."""
    text = Text(["bc"], includes_stop=True)
    assert [text.push(piece.encode()) for piece in pieces] == expected


def test_the_first_pieces_are_exempt() -> None:
    """A stop string that ends within the first n pieces does not count; one that ends after them does."""
    text = Text(["ab", "bc"], n_exempt=2)
    assert [text.push(piece) for piece in (b"ab", b"xa", b"b")] == ["a", "bx", ""]
    assert text.stopped
    text = Text(["abcd", "bc"], n_exempt=1)  # what is held back has a whole one
    assert [text.push(piece) for piece in (b"abc", b"x", b"bc")] == ["", "abcx", ""]
    assert text.stopped


def test_a_character_cut_inside_a_stop_string() -> None:
    """A stop string is found if its characters' bytes arrive in several tokens."""
    text = Text(["x\u20acy"])
    euro = "\u20ac".encode()
    assert [text.push(b"ax" + euro[:1]), text.push(euro[1:]), text.push(b"y")] == ["a", "", ""]
    assert text.stopped


def test_held_text_is_released_at_the_end() -> None:
    """Text that only might have become a stop string is sent at the end."""
    text = Text(["<|end|>"])
    assert text.push(b"2 <|e") == "2 "
    assert text.push(b"", final=True) == "<|e"
    assert not text.stopped
