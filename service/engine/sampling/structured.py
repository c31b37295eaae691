"""A sampler whose answer has a given form: a mask of the tokens that fit, computed while the model computes.

After each token the matcher follows it and makes the next mask on another thread. What is masked is drawn as ever: the
chain, its seed and its state do not know of it, and `go_on` follows the tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates
from service.engine.llama.token_matcher import TokenMatcher
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.sampler import GRAMMAR_S, MAX_GRAMMAR_S, Sampler

FEW = 16  # of as many tokens one: so few are offered to the chain one by one, more as the logits of all
# By a byte of a mask, what is added to the logits of its eight tokens.
BIASES = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], 1, bitorder="little"), 0, -np.inf).astype("f4")

Mask = NDArray[np.uint8]  # a bit for each token, the lowest of each byte first


class StructureError(GrammarError):
    """Not a structure that can be followed, or not any further."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class Lookahead:
    """Follows an answer on a thread of the pool, one task ahead of the caller."""

    def __init__(
        self,
        matcher: TokenMatcher,
        pool: ThreadPoolExecutor,
        field: str,
        failed: Callable[[], None] = lambda: None,
        *,
        left_s: float = MAX_GRAMMAR_S,
    ) -> None:
        """field: of the request, for errors. failed: called when it can't follow any further.

        left_s: of a thread's CPU time, a token bucket that each token refills.
        """
        self._matcher, self._pool, self._field, self._failed = matcher, pool, field, failed
        self._left_s = left_s
        self._next: Future[Mask] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it is known what may come next."""
        return self._next is not None and self._next.done()

    def follow(self, tokens: Sequence[int]) -> None:
        """These come next; begin to compute what may follow them."""
        self._next = self._pool.submit(self._advance, tokens)

    def allowed(self) -> Mask:
        """The tokens that may come next, once that is known. Raises StructureError."""
        assert self._next is not None
        try:
            return self._next.result()
        except LlamaError as e:
            self._failed()
            raise self.error(str(e)) from e

    def error(self, why: str) -> StructureError:
        """What ends an answer that can't be continued."""
        return StructureError(f"the answer can't be continued: {why}", self._field)

    def close(self) -> None:
        """No more of it is needed."""
        if self._next:
            self._next.cancel()

    def _advance(self, tokens: Sequence[int]) -> Mask:
        began = thread_time()
        self._matcher.follow(tokens)
        mask = self._matcher.allowed()
        self._left_s = min(self._left_s + GRAMMAR_S - (thread_time() - began), MAX_GRAMMAR_S)
        if self._left_s < 0:
            raise LlamaError("it takes too long to match: it is too ambiguous")
        return mask


class StructuredSampler:
    """Draws with another sampler among the tokens that fit."""

    is_quick = False

    def __init__(
        self, model: Model, sampler: Sampler | Argmax, lookahead: Lookahead, banned: Collection[int] = ()
    ) -> None:
        """banned: tokens that are not drawn even where they fit, unless only an end token does."""
        self._model, self._sampler, self._lookahead = model, sampler, lookahead
        usable = np.ones(-(-model.n_vocab // 32) * 32, bool)
        usable[[*banned, *range(model.n_vocab, usable.size)]] = False
        self._usable: Mask = np.packbits(usable, bitorder="little")

    def may_take_long(self, n: int) -> bool:
        """Whether n draws would wait for a mask: the first is usually there by now, and a draft's is not."""
        return n > 1 or not self._lookahead.is_ready

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """Resume after these tokens, as Sampler.go_on."""
        self._sampler.go_on(prompt, made)
        self._lookahead.follow(made)

    def draw(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """The next token; an end token once the answer has its form and no other fits.

        Raises StructureError where none does, or where finding them takes too long.
        """
        allowed = self._lookahead.allowed()
        usable = allowed & self._usable
        for token in self._sampler.excluded():
            usable[token >> 3] &= 0xFF ^ (1 << (token & 7))
        n = int(np.bitwise_count(usable).sum())
        if n == 0:
            return self._end(allowed)
        token = self._draw(n, usable, logits, candidates)
        if token not in self._model.end_tokens:
            self._lookahead.follow([token])
        return token

    def close(self) -> None:
        """Free the sampler; a second call does nothing."""
        self._lookahead.close()
        self._sampler.close()

    def _draw(self, n: int, usable: Mask, logits: NDArray[np.float32], candidates: Candidates) -> int:
        if n <= logits.size // FEW:
            return self._sampler.draw(logits, candidates, tokens_of(usable))
        return self._sampler.draw(logits + BIASES.take(usable, axis=0).reshape(-1)[: logits.size], candidates)

    def _end(self, allowed: Mask) -> int:
        """The end token that fits, though it is banned."""
        for token in tokens_of(allowed):
            if token in self._model.end_tokens:
                return int(token)
        raise self._lookahead.error("no token that may be used fits here")


AnySampler = Sampler | Argmax | StructuredSampler


def tokens_of(mask: Mask) -> NDArray[Any]:
    """The ids of a mask's tokens, ascending."""
    return np.flatnonzero(np.unpackbits(mask, bitorder="little"))
