"""How many guessed tokens are worth decoding beside the one that is known: speeds and chances decide. Pure.

A decode of n rows costs less than n decodes, and how much less goes in steps: with a 0.5B model and one thread 1, 2, 3,
4, 5 and 8 rows cost 1, 1.7, 2.4, 1.4, 2.2 and 2.8 times as much as one, for llama.cpp multiplies four rows at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from .batch import AT_ONCE
from .lookup import Guess, Lookup

MAX_DRAFTS = 15  # of one sequence in one decode; with its known token 16 rows
# What the first guesses are worth, by their length, a draft model's as of length 0. One alone that thinks so tries
# them, 32 at once need 0.9 to gain by any.
MODELS = 0
FIRST_CHANCE = {3: 0.5, 2: 0.3, MODELS: 0.7}
SHARE = 1 / 8  # of the last observation in a chance: about the last eight guesses count
MIN_GAIN = 1.03  # of all streams' speeds; less may be noise
MIN_CHANCE = 0.02  # of a draft, when all before it must be right: rows cost more than that everywhere
MIN_SECONDS = 0.002  # of a decode: to guess and to plan takes 0.05 ms for one stream, 0.3 ms for 32
LEAST_S, MOST_S = 1e-6, 3600.0  # of a decode, whatever a clock says: a kernel call takes a microsecond
MOST_SURPRISE = 2.0  # factor between what was expected and what counts of it
OWN, SHARED = 1 / 16, 1 / 4  # of a surprise in the ratio of its rows, and of the rest in what all share
# Of a ratio's worth with each decode that tells nothing of it: half after 2,080, a minute at 40 tokens/s. Four rows
# that cost 1.4 and were taken for 4 are tried again within two; trying what is dear takes one decode in a hundred.
FADE = 1 - 1 / 3000
FRESH = 100  # decodes that it is worth all of it
LEAST_FADE = 1 / 64  # more rows than that are not planned


class Costs:
    """Seconds of a decode by its rows, as measured: what all share (how busy the machine is) and what is theirs.

    A measurement may be wrong by any factor: neighbours take whole time slices, clocks stand still. So all are bounded,
    each observation moves what is known by a bounded step, and what has not been seen for long is taken for cheaper
    and cheaper until it is tried again: it would else be shunned for ever for having been measured badly once.
    """

    def __init__(self) -> None:
        self._seconds = LEAST_S  # of a decode with a ratio of 1
        self._ratios: dict[int, float] = {}
        self._known: list[int] = []
        self._seen: dict[int, int] = {}  # which observation was the last of each
        self._n = 0  # observations

    def observe(self, n_rows: int, seconds: float) -> None:
        """A decode of so many rows, all of them with logits, took so long. A clock that stands still tells nothing."""
        if not seconds > 0:  # NaN is not either
            return
        seconds = min(max(seconds, LEAST_S), MOST_S)
        self._n += 1
        if n_rows in self._ratios:
            self._learn(n_rows, seconds)
        else:
            self._begin(n_rows, seconds)
        self._seen[n_rows] = self._n

    def of(self, n_rows: int) -> float:
        """Seconds of a decode of n_rows, always more than 0: between two that are known, in proportion; beyond
        them each row takes what those took on average, if it did not go on faster last. LEAST_S a row if none is."""
        known = self._known
        if n_rows in self._ratios:
            # No less than one row, however seldom it was seen: else it would fill up every lone stream's decode.
            return self._seconds * max(self._ratio(n_rows), self._one())
        if len(known) < 2:  # as if each row cost the same: nothing pays then
            return self._seconds * n_rows / (known[0] if known else 1)
        at = min(max(bisect_left(known, n_rows), 1), len(known) - 1)
        left, right = known[at - 1], known[at]
        ratio, next_ratio = self._ratio(left), self._ratio(right)
        slope = (next_ratio - ratio) / (right - left)
        if n_rows > right:
            left, ratio, slope = right, next_ratio, max(slope, next_ratio / right)
        # Never less than half of its neighbour's: two measurements may lie, and nothing is free.
        return self._seconds * max(ratio + slope * (n_rows - left), ratio / 2, self._one())

    def _begin(self, n_rows: int, seconds: float) -> None:
        """The first observation of n_rows: no more is believed than that each was decoded alone."""
        if not self._known:
            self._seconds = seconds
        ratio = seconds / self._seconds
        self._put(n_rows, min(ratio, n_rows * self._ratios[1]) if 1 in self._ratios else ratio)
        self._known = sorted(self._ratios)

    def _learn(self, n_rows: int, seconds: float) -> None:
        """One more. A pause of the whole machine is no news of llama.cpp; a lasting change is there after ten decodes.
        The longer it was not seen the more it is believed, and as news of these rows alone."""
        fade = self._fade(n_rows)
        most = math.log(MOST_SURPRISE) / fade
        surprise = math.log(seconds / (self._seconds * self._ratios[n_rows]))
        surprise = min(max(surprise, -most), most)
        own = 1 - fade * (1 - OWN)
        self._put(n_rows, self._ratios[n_rows] * math.exp(own * surprise))
        self._seconds = _bounded(self._seconds * math.exp((1 - own) * SHARED * surprise))

    def _put(self, n_rows: int, ratio: float) -> None:
        """One row takes no longer than more: when it seems to, it was disturbed, for what disturbs only adds."""
        self._ratios[n_rows] = ratio = _bounded(ratio)
        if 1 in self._ratios:
            self._ratios[1] = min(self._ratios[1], ratio)

    def _ratio(self, n_rows: int) -> float:
        return self._ratios[n_rows] * self._fade(n_rows)

    def _one(self) -> float:
        return self._ratio(1) if 1 in self._ratios else 0.0

    def _fade(self, n_rows: int) -> float:
        """What its ratio is worth, seen so long ago."""
        age = self._n - self._seen[n_rows] - FRESH
        return max(FADE**age, LEAST_FADE) if age > 0 else 1.0


def _bounded(factor: float) -> float:
    """Two of them multiplied, by as many rows as there may be, are finite and more than 0."""
    return min(max(factor, 1e-30), 1e30)


class Guesses:
    """One sequence's guesses, and how often those like them came true, whether they were decoded or not."""

    def __init__(self, ends: Collection[int] = (), models_chance: float = FIRST_CHANCE[MODELS]) -> None:
        """models_chance: of a draft model's first guesses."""
        self._lookup = Lookup(ends)
        self._chances = FIRST_CHANCE | {MODELS: models_chance}
        self._last, self._n = list[Guess](), 0  # the last guesses, and how many tokens they follow
        self.has_asked = False  # a draft model

    def look(self, tokens: Sequence[int], n: int = MAX_DRAFTS) -> tuple[list[int], float]:
        """Up to n tokens that may come next, and the chance of each, when those before it come."""
        self._learn(tokens)
        found = self._lookup.guess(tokens, n)
        self._last, self._n = [found], len(tokens)
        return found.tokens, self._chances[found.length] if found.tokens else 0.0

    @property
    def models_chance(self) -> float:
        """Of each token that the draft model guesses, when those before it come."""
        return self._chances[MODELS]

    def take(self, guessed: list[int]) -> tuple[list[int], float]:
        """The draft model's guess, beside what the last look found."""
        self._last.append(Guess(guessed, MODELS))
        self.has_asked = True
        return guessed, self.models_chance

    def _learn(self, tokens: Sequence[int]) -> None:
        for guess in self._last:
            for guessed, came in zip(guess.tokens, tokens[self._n :], strict=False):
                self._chances[guess.length] += ((guessed == came) - self._chances[guess.length]) * SHARE
                if guessed != came:
                    break


def plan(
    costs: Costs,
    chances: Sequence[float],
    n_guessed: Sequence[int],
    n_more: int,
    min_seconds: float = MIN_SECONDS,
) -> list[int]:
    """How many drafts of each sequence to decode beside its known token: its first guesses, and any token beyond them.

    chances, n_guessed: of each sequence that decodes; n_more: rows at most for all drafts together.
    min_seconds: of a decode, below which none is planned.
    The best is the highest product of all streams' speeds: to double one's pays if it slows no other down to half.
    Drafts beyond the guesses are for nothing but their rows: where three rows cost more than four, the fourth is free.
    All rows need logits, as those had that the costs were measured with.
    """
    n = len(chances)
    if not n or costs.of(n) < min_seconds:
        return [0] * n
    steps = sorted(_steps(chances, n_guessed), reverse=True)[:n_more]
    n_drafts, _ = _best(costs, steps, n, n_more)
    counts = [0] * n
    for _, i in steps[:n_drafts]:
        counts[i] += 1
    counts[-1] += max(n_drafts - len(steps), 0)  # the youngest: it is the farthest from its last token
    return counts


def depth(
    costs: Costs,
    draft_costs: Costs,
    chances: Sequence[float],
    found: Sequence[tuple[int, float]],
    n_more: int,
) -> int:
    """How many tokens a draft model is asked for, for each of the sequences with these chances; 0: it would not pay.

    costs, draft_costs: of the model's decode, and of the draft model's, one of which gives each sequence one token.
    found: how many guesses each of all sequences has without it, and the chance of each. They come for nothing, so what
    it guesses must make all streams faster than those do. n_more: rows at most for all drafts together.
    """
    n, n_rows = len(chances), len(found)
    if not n:
        return 0
    steps = sorted(_steps([chance for _, chance in found], [count for count, _ in found]), reverse=True)[:n_more]
    _, best = _best(costs, steps, n_rows, n_more)
    n_best = 0
    gain, gains = 0.0, [_gains(chance) for chance in chances]
    for k in range(1, min(MAX_DRAFTS, n_more // n) + 1):
        gain += math.fsum(next(own)[1] for own in gains)
        seconds = costs.of(n_rows + n * k) + k * draft_costs.of(n)
        gained = gain - n_rows * math.log(seconds / costs.of(n_rows))
        if gained > best + 1e-9:
            best, n_best = gained, k
    return n_best


def _best(costs: Costs, steps: Sequence[tuple[float, int]], n: int, n_more: int) -> tuple[int, float]:
    """How many of these steps are worth their rows, or more rows than there are steps, beside n rows; and the logarithm
    of what all streams' speeds gain by it: what may be noise, where that is none."""
    gain, best, n_drafts = 0.0, n * math.log(MIN_GAIN), 0
    for k in range(1, min(len(steps) + AT_ONCE - 1, n_more) + 1):
        gain += steps[k - 1][0] if k <= len(steps) else 0.0
        gained = gain - n * math.log(costs.of(n + k) / costs.of(n))
        if gained > best + 1e-9:
            best, n_drafts = gained, k
    return n_drafts, best


def _steps(chances: Sequence[float], n_guessed: Sequence[int]) -> Iterator[tuple[float, int]]:
    """What each further guess of each sequence adds to the logarithm of its speed: less and less."""
    for i, (chance, n) in enumerate(zip(chances, n_guessed, strict=True)):
        for before, gain in islice(_gains(chance), n):
            if before < MIN_CHANCE:
                break
            yield gain, i


def _gains(chance: float) -> Iterator[tuple[float, float]]:
    """For each further guess of one sequence: the chance that it and all before it come, and what it adds."""
    expected = before = 1.0
    while True:
        before *= chance
        yield before, math.log1p(before / expected)
        expected += before
