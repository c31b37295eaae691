"""One prompt and its tokens: counts, ends and reports."""

from __future__ import annotations

import pytest

from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text


def sequence(n_prompt: int = 3, max_tokens: int = 5, stop: list[str] | None = None) -> Sequence:
    return Sequence(
        id="0123456789", tokens=list(range(n_prompt)), n_prompt=n_prompt, max_tokens=max_tokens, text=Text(stop or [])
    )


def test_a_new_sequence_is_all_pending() -> None:
    """Nothing of a prompt is computed before its first batch."""
    s = sequence()
    assert (s.n_past, s.n_pending, s.n_generated, s.is_prefilling) == (0, 3, 0, True)


@pytest.mark.parametrize(
    ("n_prompt", "n_past", "n_generated", "expected"),
    [
        (3, 0, 0, True),
        (3, 2, 0, True),  # the prompt's last token is part of the prefill
        (1, 0, 0, True),
        (3, 3, 1, False),
        (3, 0, 2, True),  # preempted: all is prefilled again
        (3, 4, 2, False),
    ],
)
def test_is_prefilling(n_prompt: int, n_past: int, n_generated: int, expected: bool) -> None:
    """A sequence decodes if only one generated token is pending."""
    s = sequence(n_prompt)
    s.tokens += [9] * n_generated
    s.n_past = n_past
    assert s.is_prefilling is expected


def test_accept_collects_tokens_and_text() -> None:
    """Each token lengthens the sequence; its text is deliverable when its bytes are complete."""
    s = sequence()
    s.n_past = 3
    assert s.accept(7, b"a\xe2\x82", False, now=1.0) == "a"
    assert s.take_held() == [7]
    assert s.accept(8, b"", False, now=2.0) == ""
    assert s.accept(9, b"\xac", False, now=3.0) == "\u20ac"
    assert s.take_held() == [8, 9]
    assert s.take_held() == []
    assert (s.tokens, s.n_generated, s.n_pending, s.finish_reason) == ([0, 1, 2, 7, 8, 9], 3, 3, None)
    assert (s.first_token_at, s.last_token_at) == (1.0, 3.0)


def test_end_token() -> None:
    """An end token stops the sequence, is not counted as one of its tokens, and releases held text."""
    s = sequence(stop=["xyz"])
    assert s.accept(7, b"x", False, now=1.0) == ""
    assert s.accept(8, b"ignored", True, now=2.0) == "x"
    assert (s.finish_reason, s.n_generated, s.held) == ("stop", 1, [7])


def test_stop_string() -> None:
    """A stop string stops the sequence and is not part of its text."""
    s = sequence(stop=["xy"])
    assert s.accept(7, b"ax", False, now=1.0) == "a"
    assert s.accept(8, b"yz", False, now=2.0) == ""
    assert s.finish_reason == "stop"


def test_a_stop_token_with_a_text() -> None:
    """Its text, too, belongs to the answer where the request says so; another end token has none."""
    s = sequence(stop=["xyz"])
    s.stop_tokens = {8: b"END", 9: b""}
    assert s.accept(7, b"x", False, now=1.0) == ""
    assert s.accept(8, b"ignored", True, now=2.0) == "xEND"
    assert (s.finish_reason, s.n_generated) == ("stop", 1)


def test_a_time_limit() -> None:
    """The first line that is complete after it ends the sequence by length; it counts from the first token."""
    s = sequence(max_tokens=50, stop=["\nb"])
    s.max_s = 1.0
    for now, piece in ((10.0, b"a\n"), (10.9, b"a\n"), (11.5, b"a")):
        s.accept(7, piece, False, now)
        assert s.finish_reason is None
    assert s.accept(7, b"c\n", False, now=11.6) == "c\n"
    assert s.finish_reason == "length"


def test_max_tokens() -> None:
    """The last allowed token ends the sequence by length and releases held text."""
    s = sequence(max_tokens=2, stop=["bc"])
    assert s.accept(7, b"a", False, now=1.0) == "a"
    assert s.finish_reason is None
    assert s.accept(8, b"b\xe2", False, now=2.0) == "b"
    assert s.finish_reason == "length"


def test_a_stop_string_in_the_last_allowed_token() -> None:
    """If one token causes both ends the stop string is the reason."""
    s = sequence(max_tokens=1, stop=["b"])
    assert s.accept(7, b"ab", False, now=1.0) == "a"
    assert s.finish_reason == "stop"


def test_an_end_token_in_the_last_place() -> None:
    """An end token after max_tokens - 1 tokens is a stop: nothing was cut off."""
    s = sequence(max_tokens=2)
    s.accept(7, b"a", False, now=1.0)
    s.accept(8, b"", True, now=2.0)
    assert (s.finish_reason, s.n_generated) == ("stop", 1)


def test_finish() -> None:
    """The report has counts and the three durations: queue, prefill, decode."""
    s = sequence(max_tokens=2)
    s.accepted_at, s.started_at = 1.0, 3.0
    s.accept(7, b"a", False, now=4.5)
    s.accept(8, b"b", False, now=5.25)
    f = s.finish()
    assert (f.id, f.reason, f.n_prompt, f.n_cached, f.n_generated) == ("0123456789", "length", 3, 0, 2)
    assert (f.queue_s, f.prefill_s, f.decode_s) == (2.0, 1.5, 0.75)


def test_finish_of_one_that_never_ran() -> None:
    """Durations of phases that did not happen are 0, not the clock's reading."""
    s = sequence()
    s.accepted_at, s.finish_reason = 100.0, "cancelled"
    f = s.finish()
    assert (f.reason, f.queue_s, f.prefill_s, f.decode_s) == ("cancelled", 0.0, 0.0, 0.0)


def test_repr() -> None:
    """repr shows where the sequence runs and how far it is."""
    s = sequence()
    assert repr(s) == "<Sequence 01234567 waiting, 0/3 cells, 0/5 made>"
    s.seq_id, s.n_past = 2, 3
    s.tokens.append(9)
    assert repr(s) == "<Sequence 01234567 seq 2, 3/4 cells, 1/5 made>"
