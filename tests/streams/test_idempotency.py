from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import asdict

from service.errors import KeyReused
from service.protocol.constraints import Constraints
from service.protocol.prompting import Prompting
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure
from service.streams.idempotency import Keys, digest
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


def test_later_fields_count_where_they_are_given() -> None:
    """A request that has none of them is shown as an earlier version shows it; others differ from it."""
    plain = GenerationRequest(sampling=Sampling(seed=0), text="x")
    assert repr(plain).endswith("model=None)")
    asked = [plain, replace(plain, constraints=Constraints(min_tokens=1)), replace(plain, constraints=Constraints())]
    asked.append(replace(plain, prompting=Prompting(cache_prompt=False)))
    assert len({digest(one) for one in asked}) == 3


def test_another_form_is_another_request() -> None:
    """A key that was used for one can't be used for the other."""
    forms = [None, Structure("regex", "a", "guided_regex"), Structure("regex", "b", "guided_regex")]
    assert len({digest(GenerationRequest(sampling=Sampling(seed=0), structure=form)) for form in forms}) == 3
