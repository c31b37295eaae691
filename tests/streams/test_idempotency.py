from __future__ import annotations

import pytest

from service.errors import KeyReused
from service.streams.idempotency import Keys


def test_a_key_finds_what_it_made() -> None:
    """By tenant and key, for the same request only."""
    keys = Keys()
    keys.add("tenant", "k", "id", "this")
    assert keys.find("tenant", "k", "this") == "id"
    assert keys.find("tenant", "other", "this") == keys.find("other", "k", "this") == ""
    with pytest.raises(KeyReused):
        keys.find("tenant", "k", "that")


def test_a_forgotten_stream_frees_its_key() -> None:
    """Unless a later one has it by now."""
    keys = Keys()
    keys.add("", "k", "first", "this")
    keys.add("", "k", "second", "that")
    keys.forget("first")
    assert keys.find("", "k", "that") == "second"
    keys.forget("second")
    assert keys.find("", "k", "anything") == ""
    keys.forget("second")
