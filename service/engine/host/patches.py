"""Which of deploy/patches the engine was built with, and what is slower or less safe without the others. Pure except
for one file, which the installer writes next to the library: one name per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LACK = {  # the effect of each one's absence; patches of the build alone have none at run time
    "0001-amx-tile-configuration": "built by GCC 12 it may die of SIGILL on a processor with AMX",
    "0002-q4_0-vnni": "Q4_0 and IQ4_NL weights are multiplied more slowly with AVX-512 VNNI",
    "0003-q4_k-vnni": "Q4_K weights are multiplied more slowly with AVX-512 VNNI, and not exactly alike in any batch",
    "0004-flash-attention-masked-cells": "a step of many streams takes a fifth longer",
    "0005-attention-tile-of-48-rows": "a slice of a long prompt below 64 rows is read slowly",
    "0006-whole-tiles-a-thread": "some attention tiles are computed twice",
    "0007-grammar-bounded-work": "a request's grammar can hold up every stream",
    "0011-threads-that-sleep": "a busy neighbour slows loads and streams down by far",
    "0012-bf16-attention": "RILL_KV_TYPE=bf16 is slow, and so auto is f16, with which texts are not exact",
    "0013-buffer-types-by-weights": "weights are kept where llama.cpp puts them, be it slower on this processor",
    "0014-huge-pages": "one stream is slower, by a seventh to a fifth where the system gives huge pages to who asks",
    "0015-q8_0-vnni": "Q8_0 weights are multiplied with AVX-512 VNNI in twice to three times the time",
    "0016-q6_k-vnni": "Q6_K weights are multiplied more slowly with AVX-512 VNNI, and auto is f16 where there are some",
    "0017-visible-cells-shared": "one stream beside kept ones is slower with an f16 cache, the more with more threads",
    "0019-q4_0-avx2": "Q4_0 weights are multiplied in twice the time where AVX2 is all there is",
    "0020-q4_k-avx2": "Q4_K weights are multiplied more slowly, and not alike in any batch, where AVX2 is all there is",
    "0021-q8_0-avx2": "Q8_0 weights are multiplied in one and a half times the time where AVX2 is all there is",
    "0022-q6_k-avx2": "Q6_K weights are multiplied in one to five times the time where AVX2 is all there is",
}


def applied(package: Path) -> frozenset[str]:
    """The names that the installer wrote; none for a llama_cpp installed in another way."""
    try:
        return frozenset((package / ".patches").read_text().split())
    except OSError:
        return frozenset()


def lacks(names: Iterable[str]) -> list[str]:
    """One line for each patch that is not among these: its name, and the effect of its absence."""
    has = frozenset(names)
    return [f"{name}: {what}" for name, what in LACK.items() if name not in has]
