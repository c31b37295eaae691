"""Sampling parameters -> the links of a sampler chain, in llama.cpp's order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .protocol import N_SEEDS, Sampling

# Below this, logits divided by the temperature overflow 32-bit floats and noise would be drawn.
MIN_TEMPERATURE = 1e-6
# typical_p and mirostat take the logarithm of every candidate's probability: of 0 that is NaN, and so is their choice.
POSSIBLE = ("min_p", (1e-30,))

Link = tuple[str, tuple[Any, ...]]
RANDOM = frozenset({"xtc", "draw"})  # links that are given a seed when they are made
SELECTING = frozenset({"greedy", "draw", "mirostat", "mirostat_v2", "adaptive_p"})
EDITING = frozenset({"bias", "penalties", "dry"})  # links that change logits, but only those of tokens they know


def is_greedy(sampling: Sampling) -> bool:
    """Whether the next token is the plain argmax of the logits that are allowed: no chain is needed then."""
    return not sampling.grammar and chain(sampling, ()) == [("greedy", ())]


def is_rebuildable(sampling: Sampling) -> bool:
    """Whether the delivered tokens and the seed are all that its samplers know: mirostat and adaptive-p know more."""
    return _is_cold(sampling) or (sampling.mirostat == 0 and sampling.adaptive_target < 0)


def window(sampling: Sampling) -> int:
    """How many of the last tokens, those of the prompt included, its samplers look at."""
    if sampling.mirostat:
        return 0
    repeated = sampling.repeat_last_n if _penalizes(sampling) else 0
    return max(repeated, sampling.dry_penalty_last_n if sampling.dry_multiplier > 0 else 0)


def seed_at(seed: int, position: int) -> int:
    """The 32-bit seed for the draws of one token (the first has position 0), never the last one, which means random.

    What one token draws is then independent of how often those before it drew: XTC and a grammar do so at times
    only. The finalizer of SplitMix64 keeps neighbours apart (Steele, Lea, Flood: Fast Splittable PRNGs, 2014).
    """
    x = ((seed << 32) + position) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return (x ^ x >> 31) % N_SEEDS


def chain(sampling: Sampling, forbidden: Sequence[int]) -> list[Link]:
    """(name, arguments) of each link that changes anything; the last one selects a token.

    The order is llama.cpp's own (common/sampling.cpp): bias, penalties, DRY, top_n_sigma, top_k, typical_p, top_p,
    min_p, XTC, temperature, draw; mirostat goes without all between bias and temperature.
    A temperature of (almost) 0 takes the likeliest token, so what only trims the tail is left out.
    """
    s = sampling
    bias = [*((token, None) for token in forbidden), *s.logit_bias]
    links: list[Link] = [("bias", (bias,))] if bias else []
    if s.mirostat:
        return links + _mirostat(s)
    if _penalizes(s):
        links.append(("penalties", (s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty)))
    if s.dry_multiplier > 0 and s.dry_penalty_last_n > 0:
        numbers = (s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_penalty_last_n)
        links.append(("dry", (*numbers, s.dry_sequence_breakers)))
    if not _is_cold(s):
        return [*links, *_trims(s), _temperature(s), _draw(s)]
    # Both may take away the likeliest token, too.
    trims = _trims(s) if s.typical_p < 1 or _excludes(s) else []
    return [*links, *trims, ("greedy", ())]


def n_edits(links: Sequence[Link]) -> int:
    """How many links, at the head of a chain, change logits of the biased tokens and those in the window only."""
    return next((i for i, (name, _) in enumerate(links) if name not in EDITING), len(links))


def n_best(links: Sequence[Link]) -> int:
    """Of how many of the likeliest tokens, after the edits, the rest of a chain makes its choice; 0: it sees all."""
    name, arguments = links[n_edits(links)]
    if name == "greedy":
        return 1
    return int(arguments[0]) if name == "top_k" else 0


def _trims(s: Sampling) -> list[Link]:
    """What takes candidates away."""
    links: list[Link] = []
    if s.top_n_sigma > 0:
        links.append(("top_n_sigma", (s.top_n_sigma,)))
    if s.top_k > 0:
        links.append(("top_k", (s.top_k,)))
    if s.typical_p < 1:
        links += [POSSIBLE, ("typical_p", (s.typical_p,))]
    if s.top_p < 1:
        links.append(("top_p", (s.top_p,)))
    if s.min_p > 0:
        links.append(("min_p", (s.min_p,)))
    if _excludes(s):
        links.append(("xtc", (s.xtc_probability, s.xtc_threshold)))
    return links


def _temperature(s: Sampling) -> Link:
    if s.dynatemp_range <= 0:
        return ("temperature", (s.temperature,))
    # From temperature - range to temperature + range, the lower end kept above MIN_TEMPERATURE.
    highest = s.temperature + s.dynatemp_range
    lowest = max(s.temperature - s.dynatemp_range, MIN_TEMPERATURE)
    return ("dynamic_temperature", ((highest + lowest) / 2, (highest - lowest) / 2, s.dynatemp_exponent))


def _draw(s: Sampling) -> Link:
    if s.adaptive_target < 0:
        return ("draw", ())
    return ("adaptive_p", (s.adaptive_target, s.adaptive_decay, s.seed))


def _mirostat(s: Sampling) -> list[Link]:
    if s.temperature < MIN_TEMPERATURE:
        return [("greedy", ())]
    name = "mirostat" if s.mirostat == 1 else "mirostat_v2"
    return [("temperature", (s.temperature,)), POSSIBLE, (name, (s.seed, s.mirostat_tau, s.mirostat_eta))]


def _is_cold(s: Sampling) -> bool:
    return s.temperature < MIN_TEMPERATURE and (s.dynatemp_range <= 0 or s.mirostat > 0)


def _excludes(s: Sampling) -> bool:
    return s.xtc_probability > 0 and s.xtc_threshold <= 0.5


def _penalizes(s: Sampling) -> bool:
    off = s.repeat_penalty == 1 and s.frequency_penalty == 0 and s.presence_penalty == 0
    return s.repeat_last_n != 0 and not off
