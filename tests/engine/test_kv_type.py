"""The KV cache's type where it is left open, and the words for what it promises."""

from __future__ import annotations

import pytest

from service.engine.context import KV_TYPES
from service.engine.kv_type import AUTO, EXACT, choose_kv_type, promise


@pytest.mark.parametrize("asked", KV_TYPES)
def test_what_is_asked_for_is_had(asked: str) -> None:
    """A type that is named is taken, whatever it costs."""
    assert choose_kv_type(asked) == asked


def test_left_open() -> None:
    """The fastest, as long as none that is exact is as fast."""
    assert choose_kv_type(AUTO) == "f16"
    assert "f16" not in EXACT


def test_words() -> None:
    """They say what a user may expect, and differ by more than a word in the middle."""
    assert promise(True).startswith("exact: ")
    assert promise(False).startswith("not exact: ")
