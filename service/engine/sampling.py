"""Sampling parameters -> the links of a sampler chain, in llama.cpp's order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .protocol import Sampling

# Below this, logits divided by the temperature overflow 32-bit floats and noise would be drawn.
MIN_TEMPERATURE = 1e-6


def is_greedy(sampling: Sampling) -> bool:
    """Whether the next token is the plain argmax of the logits that are allowed: no chain is needed then."""
    return sampling.temperature < MIN_TEMPERATURE and not _penalizes(sampling)


def chain(sampling: Sampling, forbidden: Sequence[int]) -> list[tuple[str, tuple[Any, ...]]]:
    """(name, arguments) of each link that changes anything; the last one selects a token.

    The order is llama.cpp's own (common/sampling.cpp): bias, penalties, top_k, top_p, min_p, temperature, draw.
    A temperature of (almost) 0 takes the likeliest token, so what only trims the tail is left out.
    """
    links: list[tuple[str, tuple[Any, ...]]] = []
    if forbidden:
        links.append(("forbid", (forbidden,)))
    if _penalizes(sampling):
        s = sampling
        links.append(("penalties", (s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty)))
    if sampling.temperature < MIN_TEMPERATURE:
        return [*links, ("greedy", ())]
    if sampling.top_k > 0:
        links.append(("top_k", (sampling.top_k,)))
    if sampling.top_p < 1:
        links.append(("top_p", (sampling.top_p,)))
    if sampling.min_p > 0:
        links.append(("min_p", (sampling.min_p,)))
    return [*links, ("temperature", (sampling.temperature,)), ("draw", (sampling.seed,))]


def _penalizes(s: Sampling) -> bool:
    off = s.repeat_penalty == 1 and s.frequency_penalty == 0 and s.presence_penalty == 0
    return s.repeat_last_n != 0 and not off
