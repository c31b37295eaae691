"""Which of deploy/patches the engine was built with, and what is slower or less safe without the others. Pure except
for one file, which the installer writes next to the library: one name per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LACK = {  # the effect of each one's absence; patches of the build alone have none at run time
    "0001-amx-tile-configuration": "built with GCC 12, it may die of SIGILL on a processor with AMX",
    "0002-q4_0-vnni": "Q4_0 and IQ4_NL weights are multiplied more slowly with AVX-512 VNNI",
    "0003-q4_k-vnni": "Q4_K weights are multiplied more slowly with AVX-512 VNNI, and results depend on the batch",
    "0004-flash-attention-masked-cells": "a step with many streams takes 20% longer",
    "0005-attention-tile-of-48-rows": "a prefill chunk of a long prompt with fewer than 64 rows is slow",
    "0006-whole-tiles-a-thread": "some attention tiles are computed twice",
    "0007-grammar-bounded-work": "a request's grammar can delay every stream",
    "0011-threads-that-sleep": "other processes under load slow down model loads and streams considerably",
    "0012-bf16-attention": "RILL_KV_TYPE=bf16 is slow, so auto selects f16, with which texts are not exact",
    "0013-buffer-types-by-weights": "weights stay in llama.cpp's default buffers, even if slower on this processor",
    "0014-huge-pages": "one stream is slower, by a seventh to a fifth where huge pages are given on request (madvise)",
    "0015-q8_0-vnni": "Q8_0 weights take two to three times as long to multiply with AVX-512 VNNI",
    "0016-q6_k-vnni": "Q6_K weights are multiplied more slowly with AVX-512 VNNI, and auto selects f16 for them",
    "0017-visible-cells-shared": "one stream is slower with an f16 cache and kept prefixes, more so with more threads",
    "0019-q4_0-avx2": "Q4_0 weights take twice as long to multiply with AVX2 only",
    "0020-q4_k-avx2": "Q4_K weights are multiplied more slowly with AVX2 only, and results depend on the batch",
    "0021-q8_0-avx2": "Q8_0 weights take one and a half times as long to multiply with AVX2 only",
    "0022-q6_k-avx2": "Q6_K weights take one to five times as long to multiply with AVX2 only",
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
