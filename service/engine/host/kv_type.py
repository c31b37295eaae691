"""The KV cache's type where the operator leaves it open, and the words in which the log states exactness.

The choice must be the same at every load, so nothing is timed for it: a restarted engine continues streams from the
results of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from service.protocol.options import KvType

AUTO: Final = "auto"
UNASKED: Final = "f16"
EXACT = ("bf16", "q8_0")  # with these ggml computes each row's attention independently of the rest of the batch
# With it bf16 takes 0.7 to 0.95 of f16's time, without it up to 1.6 (docs/exactness.md). ggml's CPU library reports it.
FAST = "FLASH_ATTN_BF16"
HEADS = (32, 64, 96, 128, 256)  # the head sizes that it supports: deploy/patches/0012
# Weight types with the same results for any number of rows. K and IQ types have them, too, but without the kernels that
# make them fast for many rows, unless they are repacked for that (0003 and 0016); F16 and similar types do not.
FREE_WEIGHTS = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"})
REPACKED, REPACKED_WEIGHTS = "REPACK_K_VNNI", frozenset({"q4_K", "q6_K"})
NORMS = frozenset({"f32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the choice depends on. weights: types by ggml's names, empty if the file could not be read."""

    features: Set[str]  # of ggml's CPU library
    weights: Set[str]
    head: int  # values of a head's key and value, 0: they differ or are unknown
    on_gpu: bool
    flash_attention: bool
    can_be_exact: bool  # by the rest: RILL_N_SEQ, and a memory that can share prompts in an exact cache, too


def choose_kv_type(asked: KvType, given: Given) -> KvType:
    """The type for a value of RILL_KV_TYPE: for auto, bf16 where that makes results exact and costs nothing."""
    if asked != AUTO:
        return asked
    is_exact = given.can_be_exact and given.flash_attention and not given.on_gpu
    weights = given.weights - NORMS
    free = FREE_WEIGHTS | (REPACKED_WEIGHTS if REPACKED in given.features else frozenset())
    is_free = FAST in given.features and given.head in HEADS and bool(weights) and weights <= free
    return "bf16" if is_exact and is_free else UNASKED


def head_size(meta: Callable[[str], str | None]) -> int:
    """Values of a head's key and value, from the GGUF's metadata; 0 where they differ or are not stated."""
    arch = meta("general.architecture")
    width, n = (meta(f"{arch}.{key}") or "" for key in ("embedding_length", "attention.head_count"))
    head = str(int(width) // int(n)) if width.isdigit() and n.isdigit() and int(n) else ""
    key, value = (meta(f"{arch}.attention.{name}_length") or head for name in ("key", "value"))
    return int(key) if key == value and key.isdigit() else 0


def promise(exact: bool) -> str:
    """What a client may expect of a seed."""
    if exact:
        return "exact: the same request gives the same text"
    return "not exact: the same request, sent again, may give another text"
