"""How many draft tokens are worth decoding in a step: decode costs and acceptance rates decide. Pure.

A decode of n rows costs less than n decodes, and how much less goes in steps: with a 0.5B model and one thread 1, 2, 3,
4, 5 and 8 rows cost 1, 1.7, 2.4, 1.4, 2.2 and 2.8 times as much as one, as llama.cpp multiplies four rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from service.engine.scheduling.tiles import AT_ONCE
from service.engine.speculation.costs import DecodeCost

MAX_DRAFTS = 15  # of one sequence in one decode; with its last token 16 rows
MIN_GAIN = 1.03  # of all streams' speeds; less may be noise
MIN_CHANCE = 0.02  # that a draft and all before it are accepted: rows cost more than that everywhere
MIN_SECONDS = 0.002  # of a decode: drafting and planning takes 0.05 ms for one stream, 0.3 ms for 32


def plan(
    costs: DecodeCost,
    chances: Sequence[float],
    n_guessed: Sequence[int],
    n_more: int,
    min_seconds: float = MIN_SECONDS,
) -> list[int]:
    """How many drafts of each sequence to decode with its last token: its first proposed ones, and filler beyond them.

    chances, n_guessed: acceptance rate and number of proposed drafts of each decoding sequence; n_more: rows at most
    for all drafts together. min_seconds: of a decode, below which none is planned.
    The best is the highest product of all streams' speeds: doubling one's pays if it slows no other down to half.
    Filler tokens only add rows: where three rows cost more than four, the fourth is free. Three seeded streams of a
    0.5B model were 1.12 times as fast with them (AVX2; five pairs of runs, 1.01 to 1.16).
    All rows need logits, like those that the costs were measured with.
    """
    n = len(chances)
    if not n or costs.of(n) < min_seconds:
        return [0] * n
    steps = sorted(_steps(chances, n_guessed), reverse=True)[:n_more]
    n_drafts = _best(costs, steps, n, n_more)
    counts = [0] * n
    for _, i in steps[:n_drafts]:
        counts[i] += 1
    counts[-1] += max(n_drafts - len(steps), 0)  # the youngest: it is the farthest from its last token
    return counts


def _best(costs: DecodeCost, steps: Sequence[tuple[float, int]], n: int, n_more: int) -> int:
    """How many of these steps pay for their rows, with filler rows beyond them, on top of n rows."""
    gain, best, n_drafts = 0.0, n * math.log(MIN_GAIN), 0
    for k in range(1, min(len(steps) + AT_ONCE - 1, n_more) + 1):
        gain += steps[k - 1][0] if k <= len(steps) else 0.0
        gained = gain - n * math.log(costs.of(n + k) / costs.of(n))
        if gained > best + 1e-9:
            best, n_drafts = gained, k
    return n_drafts


def _steps(chances: Sequence[float], n_guessed: Sequence[int]) -> Iterator[tuple[float, int]]:
    """What each further draft of each sequence adds to the logarithm of its speed: less and less."""
    for i, (chance, n) in enumerate(zip(chances, n_guessed, strict=True)):
        expected = before = 1.0  # tokens without this draft; the chance that it and all before it are accepted
        for _ in range(n):
            before *= chance
            if before < MIN_CHANCE:
                break
            yield math.log1p(before / expected), i
            expected += before
