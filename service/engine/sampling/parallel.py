"""Sampling from the logits of one decode: the next tokens of each sequence, on several threads where it pays.

Each sequence's own sampler samples in order, from its own logits: the choice of thread changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.engine.llama.context import Context
from service.engine.llama.sampler_chain import Candidates
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.logprobs import Distribution, Ranked
from service.engine.sampling.structured import AnySampler

# Below, building and scanning the array of all candidates takes less time than waking a thread (about 50 us).
MIN_N_VOCAB = 16384


class Draw(NamedTuple):
    """Rows of one sequence in one decode: the one from which its next token is sampled, then one for each draft.

    `first` is the batch index of that one; the others follow it. A draft was decoded as if it were the next token.
    n_logprobs: of how many of the likeliest tokens the log-probabilities are wanted, in addition to the token's own.
    """

    sampler: AnySampler
    first: int
    drafts: Sequence[int] = ()
    n_logprobs: int | None = None

    @property
    def is_quick(self) -> bool:
        """Whether it is not worth another thread."""
        return self.sampler.is_quick and self.n_logprobs is None

    def logits(self, context: Context) -> list[NDArray[np.float32]]:
        """The logits of its rows, valid until the next decode. Raises LlamaError where there are none."""
        return [context.logits(self.first + i) for i in range(len(self.drafts) + 1)]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next tokens: the accepted drafts, and the first that is no draft. An error ends them."""

    tokens: list[int]
    error: GrammarError | None = None
    logprobs: list[Ranked] = field(default_factory=list)  # of each token, if they are wanted
    each_s: float = field(default=0.0, compare=False)  # CPU time for one token


class ParallelSampler:
    """Samples on the calling thread and up to n_threads - 1 of its own. For the thread that owns the context."""

    def __init__(self, n_vocab: int, n_threads: int) -> None:
        self._n_vocab = n_vocab
        self._candidates = [Candidates(n_vocab)]  # one for each thread, made when it is needed: 3.6 MB for 152k
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(max(1, n_threads - 1), thread_name_prefix="draw")  # starts none until needed

    def draw(self, context: Context, runs: Sequence[Draw]) -> list[Drawn]:
        """Sample each run from the logits of the last decode. Raises LlamaError where there are none."""
        # All of them first: llama.cpp reorders its outputs when one is requested.
        logits = [run.logits(context) for run in runs]
        drawn = [Drawn([])] * len(runs)

        def take(indices: Iterator[int], candidates: Candidates) -> None:
            for i in indices:
                drawn[i] = draw(runs[i], logits[i], candidates)

        slow = [i for i, run in enumerate(runs) if not run.is_quick and self._n_vocab >= MIN_N_VOCAB]
        n_threads = min(self._n_threads, len(slow))
        if n_threads < 2:
            take(iter(range(len(runs))), self._candidates[0])
            return drawn
        shared = iter(slow)  # each thread takes the next when it is free: the GIL makes next() atomic
        self._candidates += [Candidates(self._n_vocab) for _ in range(n_threads - len(self._candidates))]
        others = [self._pool.submit(take, shared, own) for own in self._candidates[1:n_threads]]
        try:
            take(shared, self._candidates[0])
            take((i for i in range(len(runs)) if i not in slow), self._candidates[0])
        finally:
            for other in others:
                other.result()
        return drawn

    def close(self) -> None:
        """End its threads; a second call does nothing."""
        self._pool.shutdown()


def draw(run: Draw, logits: Sequence[NDArray[np.float32]], candidates: Candidates) -> Drawn:
    """Sample token by token, for as long as drafts are accepted: logits after a rejected one are of no use."""
    tokens: list[int] = []
    logprobs: list[Ranked] = []
    began = time.thread_time()
    try:
        for i, row in enumerate(logits):
            before = None if run.n_logprobs is None else Distribution(row, run.n_logprobs)
            tokens.append(run.sampler.draw(row, candidates))
            if before:
                logprobs.append(before.of(tokens[-1]))
            if i < len(run.drafts) and tokens[-1] != run.drafts[i]:
                break
    except GrammarError as e:
        return Drawn(tokens, e, logprobs)
    return Drawn(tokens, logprobs=logprobs, each_s=(time.thread_time() - began) / len(tokens))
