from __future__ import annotations

import pytest
from msgspec.structs import asdict

from service.errors import KeyReused
from service.protocol.sampling import Sampling
from service.streams.idempotency import Keys
from service.streams.request import GenerationRequest


def test_a_key_finds_its_stream() -> None:
    """By tenant and key, for the same request only."""
    keys = Keys()
    keys.add("tenant", "k", "id", "this")
    assert keys.find("tenant", "k", "this") == "id"
    assert keys.find("tenant", "other", "this") == keys.find("other", "k", "this") == ""
    with pytest.raises(KeyReused):
        keys.find("tenant", "k", "that")


def test_a_forgotten_stream_frees_its_key() -> None:
    """Unless a later stream has the key by then."""
    keys = Keys()
    keys.add("", "k", "first", "this")
    keys.add("", "k", "second", "that")
    keys.forget("first")
    assert keys.find("", "k", "that") == "second"
    keys.forget("second")
    assert keys.find("", "k", "anything") == ""
    keys.forget("second")


def test_a_request_is_the_same_to_another_version() -> None:
    """Its key may be in a store with a digest of its repr, which has every parameter by its name."""
    sampling = Sampling(seed=0, logit_bias=((5, None),), grammar="'\n")
    named = ", ".join(f"{name}={value!r}" for name, value in asdict(sampling).items())
    assert repr(GenerationRequest(sampling=sampling)).startswith(f"GenerationRequest(sampling=Sampling({named}), mess")
