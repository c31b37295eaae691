"""The parameters that constrain an answer."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.params import StreamRequest, parse_query, validate
from service.errors import Invalid
from service.protocol.constraints import Constraints

ALL: dict[str, Any] = {
    "stop_token_ids": [5, 6],
    "min_tokens": 3,
    "bad_words": ["fox", "the bear"],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "t_max_predict_ms": 250,
}


def constraints(**fields: Any) -> Constraints:
    return validate(StreamRequest, {"prompt": "x", **fields}).to_generation().constraints


def test_none_by_default() -> None:
    """null is the default, and so are the values by which other servers switch a constraint off."""
    assert constraints() == constraints(**dict.fromkeys(ALL)) == Constraints()
    off = {"stop_token_ids": [], "min_tokens": 0, "bad_words": [], "include_stop_str_in_output": False}
    off["skip_special_tokens"] = True
    assert constraints(**off, t_max_predict_ms=0) == constraints(t_max_predict_ms=-1) == Constraints()


def test_each_reaches_the_engine() -> None:
    """Under its own name, from a body and from a query."""
    expected = Constraints(**{**ALL, "stop_token_ids": (5, 6), "bad_words": ("fox", "the bear")})
    asked = validate(StreamRequest, {"prompt": "x", **ALL}).to_generation()
    assert asked.constraints == asked.submit("id", 1, 0.0).constraints == expected
    query = "prompt=x&stop_token_ids=5&stop_token_ids=6&min_tokens=3&bad_words=fox&bad_words=the+bear"
    query += "&include_stop_str_in_output=true&skip_special_tokens=false&t_max_predict_ms=250"
    assert validate(StreamRequest, parse_query(query), strict=False).to_generation() == asked


def test_one_bad_word_is_a_list() -> None:
    """As one stop string is."""
    assert constraints(bad_words="fox").bad_words == ("fox",)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_more_tokens_than_allowed(limit: str) -> None:
    """A minimum beyond the maximum is an error that names it."""
    assert constraints(min_tokens=5, **{limit: 5}).min_tokens == constraints(min_tokens=5, max_tokens=-1).min_tokens
    with pytest.raises(Invalid, match="it must be at most max_tokens, 4") as error:
        constraints(min_tokens=5, **{limit: 4})
    assert error.value.param == "min_tokens"
