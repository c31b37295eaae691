"""A field's error, in plain words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from service.words import WORDS, plain


class Inner(BaseModel):
    x: int


class Everything(BaseModel):
    whole: int = 0
    number: Annotated[float, Field(gt=0, lt=5, allow_inf_nan=False)] = 1
    bounded: Annotated[int, Field(ge=0, le=5)] = 1
    flag: bool = False
    text: Annotated[str, StringConstraints(min_length=1, max_length=3)] = "x"
    long: Annotated[str, StringConstraints(min_length=2)] = "xy"
    words: Annotated[list[str], Field(min_length=2, max_length=3)] = Field(default=["a", "b"])
    pair: tuple[int, int] = (1, 2)
    table: dict[str, int] = Field(default={})
    inner: Inner | None = None
    one: Literal["a", "b"] = "a"
    shaped: Annotated[str, StringConstraints(pattern="^x$")] = "x"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whole": "x"}, "it must be an integer"),
        ({"whole": 1.5}, "it must be an integer"),
        ({"whole": []}, "it must be an integer"),
        ({"number": "x"}, "it must be a number"),
        ({"number": []}, "it must be a number"),
        ({"number": float("nan")}, "it must be a finite number"),
        ({"number": 0}, "it must be more than 0.0"),
        ({"number": 5}, "it must be less than 5.0"),
        ({"bounded": -1}, "it must be 0 or more"),
        ({"bounded": 6}, "it must be 5 or less"),
        ({"flag": "maybe"}, "it must be true or false"),
        ({"flag": []}, "it must be true or false"),
        ({"text": 5}, "it must be a string"),
        ({"text": ""}, "it must not be empty"),
        ({"text": "four"}, "it may have at most 3 characters"),
        ({"long": "x"}, "it must have at least 2 characters"),
        ({"words": "x"}, "it must be a list"),
        ({"words": ["a"]}, "it must have at least 2 items"),
        ({"words": ["a"] * 4}, "it may have at most 3 items"),
        ({"pair": 5}, "it must be a list"),
        ({"table": 5}, "it must be an object"),
        ({"inner": 5}, "it must be an object"),
        ({"inner": {}}, "it is missing"),
        ({"one": "c"}, "it must be 'a' or 'b'"),
        ({"shaped": "y"}, WORDS["string_pattern_mismatch"]),
    ],
)
def test_plain_words(fields: dict[str, Any], words: str) -> None:
    """Each kind of error is described by what would be valid."""
    with pytest.raises(ValidationError) as found:
        Everything.model_validate(fields)
    assert plain(found.value.errors()[0]) == words


def test_other_messages_are_unchanged() -> None:
    """A validator's message is passed on; so is pydantic's own message if there are no plain words."""
    assert plain({"type": "value_error", "msg": "Value error, no fox", "ctx": {}}) == "no fox"
    assert plain({"type": "new_error", "msg": "Something new"}) == "Something new"
