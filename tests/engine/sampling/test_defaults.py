"""The model's own sampling defaults."""

from __future__ import annotations

import pytest

from service.engine.sampling.defaults import KEYS, sampling_defaults


def of(**values: str) -> tuple[dict[str, float], list[str]]:
    """The defaults of a file with these values of general.sampling."""
    return sampling_defaults({f"general.sampling.{key}": value for key, value in values.items()}.get)


def test_each_key_has_its_parameter() -> None:
    """As llama.cpp prints the values; whole numbers stay whole."""
    assert of() == ({}, [])
    given = dict.fromkeys(KEYS, "0.500000") | {"top_k": "20", "penalty_last_n": "128", "mirostat": "2"}
    found, unusable = of(**given)
    assert (set(found), unusable) == (set(KEYS.values()), [])
    assert found["temperature"] == found["repeat_penalty"] == 0.5
    assert (found["top_k"], found["repeat_last_n"], found["mirostat"]) == (20, 128, 2)
    assert {name for name, value in found.items() if isinstance(value, int)} == {"top_k", "repeat_last_n", "mirostat"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temp", "hot"),
        ("temp", "nan"),
        ("temp", "1e300"),
        ("top_k", "99999999999"),
        ("top_k", "inf"),
        ("penalty_last_n", "-1"),
        ("penalty_repeat", "0.0"),
        ("mirostat", "3"),
        ("top_p", ""),
    ],
)
def test_a_value_that_cannot_be_used(key: str, value: str) -> None:
    """It is left out and named, and the others count."""
    assert of(min_p="0.25", **{key: value}) == ({"min_p": 0.25}, [f"general.sampling.{key}"])
