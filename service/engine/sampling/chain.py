"""Sampling parameters -> the links of a sampler chain, in llama.cpp's order. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.llama.chain_links import EDITING, Link
from service.protocol.sampling import N_SEEDS, Sampling

# Below this, logits divided by the temperature overflow 32-bit floats and noise would be drawn.
MIN_TEMPERATURE = 1e-6
# typical_p and mirostat take the logarithm of every candidate's probability: of 0 that is NaN, and so is their choice.
POSSIBLE = ("min_p", (1e-30,))


def is_greedy(sampling: Sampling) -> bool:
    """Whether the next token is the plain argmax of the logits that are allowed: no chain is needed then."""
    return not sampling.grammar and chain(sampling, ()) == [("greedy", ())]


def is_rebuildable(sampling: Sampling) -> bool:
    """Whether the samplers' state follows from delivered tokens and seed: not that of mirostat and adaptive-p."""
    return _is_cold(sampling) or (sampling.mirostat == 0 and sampling.adaptive_target < 0)


def window(sampling: Sampling) -> int:
    """How many of the last tokens, including the prompt's, its samplers look at."""
    if sampling.mirostat:
        return 0
    repeated = sampling.repeat_last_n if _penalizes(sampling) else 0
    return max(repeated, sampling.dry_penalty_last_n if sampling.dry_multiplier > 0 else 0)


def seed_at(seed: int, position: int) -> int:
    """The 32-bit seed for the draws of one token (the first has position 0), never 2**32-1, which means random.

    A token's random numbers are then independent of how many earlier tokens drew, which varies with XTC and grammars.
    The finalizer of SplitMix64 decorrelates neighbours (Steele, Lea, Flood: Fast Splittable PRNGs, 2014).
    """
    x = ((seed << 32) + position) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return (x ^ x >> 31) % N_SEEDS


def chain(sampling: Sampling, forbidden: Sequence[int]) -> list[Link]:
    """(name, arguments) of each link that changes anything; the last one selects a token.

    The order is llama.cpp's own (common/sampling.cpp): bias, penalties, DRY, top_n_sigma, top_k, typical_p, top_p,
    min_p, XTC, temperature, draw; mirostat uses none between bias and temperature.
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
    # Both may remove the likeliest token, too.
    trims = _trims(s) if s.typical_p < 1 or _excludes(s) else []
    return [*links, *trims, ("greedy", ())]


def n_edits(links: Sequence[Link]) -> int:
    """How many links, at the head of a chain, change only the logits of biased tokens and of those in the window."""
    return next((i for i, (name, _) in enumerate(links) if name not in EDITING), len(links))


def n_best(links: Sequence[Link]) -> int:
    """Effective top-k: how many of the likeliest tokens, after the edits, the rest of a chain chooses from; 0: all."""
    name, arguments = links[n_edits(links)]
    if name == "greedy":
        return 1
    return int(arguments[0]) if name == "top_k" else 0


def _trims(s: Sampling) -> list[Link]:
    """The links that remove candidates."""
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
