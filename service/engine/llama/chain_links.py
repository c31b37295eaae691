"""The links of a sampler chain as values: sampling/ decides which, sampler_chain.py has llama.cpp make them. Pure."""

from __future__ import annotations

from typing import Any

Link = tuple[str, tuple[Any, ...]]  # a name of sampler_chain.MAKERS, and its arguments
RANDOM = frozenset({"xtc", "draw"})  # links that are given a seed when they are made
SELECTING = frozenset({"greedy", "draw", "mirostat", "mirostat_v2", "adaptive_p"})
EDITING = frozenset({"bias", "penalties", "dry"})  # links that change logits, but only of biased or recent tokens
