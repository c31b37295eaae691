"""Log-probabilities: the log-softmax of a row of logits as the model computed it, before any sampler or bias.

All values come from the row alone and by the same operations, so they depend on nothing else in the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.llama.model import Model
from service.engine.sampling.top_candidates import top_candidates
from service.protocol.said import Candidate, TokenLogprob

LEAST = -9999.0  # what OpenAI's API says for "very unlikely"; JSON has no infinity
N_DIGITS = 6  # after the point: float32 logits carry no more


class Ranked(NamedTuple):
    """A token, its log-probability, and those of the likeliest tokens, the likeliest first. None: nothing came
    before it."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class Distribution:
    """Over the tokens after one row, taken before a sampler edits its logits; `of` a token is asked after that."""

    def __init__(self, logits: NDArray[np.float32], n: int) -> None:
        """n: how many of the likeliest tokens are wanted."""
        self._logits = logits
        self._norm = log_sum_exp(logits)
        self._top = tuple((int(token), self._logprob(token)) for token in likeliest(logits, n))

    def of(self, token: int) -> Ranked:
        """The drawn token's log-probability: no sampler has changed its own logit, since it has not excluded it."""
        return Ranked(token, self._logprob(token), self._top)

    def _logprob(self, token: int) -> float:
        value = round(float(self._logits[token]) - self._norm, N_DIGITS)
        return value + 0.0 if value >= LEAST else LEAST  # NaN is not; + 0.0: no negative zero


def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """Of a row, in float64 from exponentials in float32: 0.5 ms for 152k."""
    most = logits.max()
    with np.errstate(invalid="ignore"):  # of infinities and NaN comes NaN
        return float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))


def likeliest(logits: NDArray[np.float32], n: int) -> NDArray[Any]:
    """The ids of the n largest logits, the largest first; of equal ones the lower id first. Of NaNs: none."""
    if n == 0:
        return np.empty(0, np.int64)
    n = min(n, logits.size)
    ids = top_candidates(logits, n)
    if ids is None:
        ids = np.flatnonzero(logits >= np.partition(logits, -n)[-n])
    return ids[np.argsort(-logits[ids], kind="stable")][:n]


def named(model: Model, ranked: Ranked, offset: int) -> TokenLogprob:
    """With the tokens' texts. offset: characters of the text before the token."""
    top = [Candidate(*_texts(model, token), logprob) for token, logprob in ranked.top]
    return TokenLogprob(*_texts(model, ranked.token), ranked.logprob, offset, top)


def _texts(model: Model, token: int) -> tuple[str, bytes | None]:
    if token in model.control_tokens or token in model.end_tokens:
        return model.text_of(token), None
    piece = model.piece(token)
    return piece.decode("utf-8", "replace"), piece
