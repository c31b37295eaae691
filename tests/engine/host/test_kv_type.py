"""The KV cache's type if it is not set, and the description of its guarantee."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.engine.host.kv_type import AUTO, FAST, HEADS, REPACKED, Given, choose_kv_type, head_size, promise
from service.engine.llama.constants import KV_TYPES
from service.protocol.options import KvType

FREE = Given(
    features=frozenset({"AVX512", FAST}),
    weights=frozenset({"q8_0", "f32"}),
    head=64,
    on_gpu=False,
    flash_attention=True,
    can_be_exact=True,
)


@pytest.mark.parametrize("asked", KV_TYPES)
def test_an_explicit_type_is_used(asked: KvType) -> None:
    """An explicit type is used, whatever it costs."""
    assert choose_kv_type(asked, FREE) == choose_kv_type(asked, replace(FREE, features=frozenset())) == asked


def test_exact_where_it_costs_nothing() -> None:
    """By default it is bf16 with each type of weights and each head size for which that is as fast as f16."""
    assert choose_kv_type(AUTO, FREE) == "bf16"
    assert choose_kv_type(AUTO, replace(FREE, weights=frozenset({"q4_0", "q4_1", "f32"}))) == "bf16"
    assert {choose_kv_type(AUTO, replace(FREE, head=head)) for head in HEADS} == {"bf16"}
    repacked = replace(FREE, features=FREE.features | {REPACKED}, weights=frozenset({"q4_K", "q6_K", "f32"}))
    assert choose_kv_type(AUTO, repacked) == "bf16"


@pytest.mark.parametrize(
    "but",
    [
        {"features": frozenset({"AVX512", "AVX512_BF16"})},
        {"weights": frozenset({"q4_0", "q6_K", "f32"})},
        {"weights": frozenset({"f16", "f32"})},
        {"weights": frozenset({"f32"})},
        {"weights": frozenset()},
        {"head": 80},
        {"head": 0},
        {"on_gpu": True},
        {"flash_attention": False},
        {"can_be_exact": False},
    ],
)
def test_not_exact_where_it_costs(but: dict[str, Any]) -> None:
    """Without the fast attention, with weights that would be slower or inexact anyway, on a GPU it is f16."""
    assert choose_kv_type(AUTO, replace(FREE, **but)) == "f16"


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"embedding_length": "896", "attention.head_count": "14"}, 64),
        ({"embedding_length": "640", "attention.head_count": "4", "attention.key_length": "256"}, 0),
        ({"attention.key_length": "256", "attention.value_length": "256"}, 256),
        ({"embedding_length": "896", "attention.head_count": "[14, 7]"}, 0),
        ({"embedding_length": "896", "attention.head_count": "0"}, 0),
        ({}, 0),
    ],
)
def test_the_size_of_a_head(meta: dict[str, str], expected: int) -> None:
    """From the file's metadata, else derived from the embedding size; 0 if there is more than one size."""
    named = {"general.architecture": "x"} | {f"x.{key}": value for key, value in meta.items()}
    assert head_size(named.get) == expected


def test_the_description_begins_with_the_guarantee() -> None:
    """It first says whether results are exact."""
    assert promise(True).startswith("exact: ")
    assert promise(False).startswith("not exact: ")
