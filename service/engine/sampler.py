"""A sequence's sampler: what it draws next from the logits, and how it goes on elsewhere as if it had never stopped.

What a sampler knows follows from the seed and the tokens so far: `go_on` with them makes a new one go on as another
would have, except for mirostat and adaptive-p (sampling.is_rebuildable).
"""

from __future__ import annotations

import ctypes
import math
import re
from collections import deque
from collections.abc import Sequence
from functools import partial
from time import thread_time
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from .gbnf import GrammarError
from .grammar import check
from .likeliest import can_be_found, likeliest
from .links import Candidates, Chain, alone
from .llama import LlamaError, Model
from .protocol import Sampling
from .sampling import RANDOM, SELECTING, Link, chain, is_greedy, n_best, n_edits, seed_at, window
from .stack import run_deep

# An ambiguous grammar (x ::= "a" x "b" | "a" x "c" | "a") has llama.cpp follow ever more ways with each token, while
# all other streams wait. A mask over 152k tokens took 0.03 s for JSON, and 0.11 s at worst; most tokens need none.
MAX_GRAMMAR_S = 1.0  # of a thread's computing, beyond what each token brings
GRAMMAR_S = 0.05  # ... for each token

# What llama.cpp's grammars decode to the character 0, which it takes for the end of a token and lets pass, and aborts
# on when it is accepted. It does not look whether what follows within a token continues the character.
_NUL = re.compile(rb"\xc0[@\x80\xc0]|\xe0[@\x80\xc0]{2}|\xf0[@\x80\xc0]{3}")


class Sampler:
    """C samplers, built from sampling.chain's links, and a grammar that has the last word.

    The links that change the logits of few tokens are a chain of their own: after them it shows whether the likeliest
    tokens alone will do for the rest, which is then as if it had seen all (see _offer).
    """

    def __init__(
        self, model: Model, links: Sequence[Link], *, seed: int = 0, window: int = 0, grammar: str = ""
    ) -> None:
        """window: how many of the last tokens the links look at.

        Raises LlamaError for a chain that selects nothing, with which C would abort, and for a link it refuses;
        GrammarError.
        """
        if not links or [name for name, _ in links if name in SELECTING] != [name for name, _ in links[-1:]]:
            raise LlamaError("the last link of a sampler chain, and no other, must select a token")
        self._model, self._seed, self._window = model, seed, window
        self._position = 0  # of the next token behind the prompt
        self._tail = b""  # the last bytes, whose character may go on
        self._grammar = _grammar(model, grammar) if grammar else None
        self._grammar_left_s = MAX_GRAMMAR_S
        edits, rest = links[: n_edits(links)], links[n_edits(links) :]
        self._n_best = n_best(links)
        self._biased = {token for name, arguments in edits if name == "bias" for token, _ in arguments[0]}
        self._recent: deque[int] = deque(maxlen=window)
        n_fixed = _n_fixed(rest, varies=bool(grammar))
        self._is_renewed = n_fixed < len(rest)
        self._edits = Chain(model, edits, seed=seed, n_fixed=len(edits)) if edits else None
        self._chain = Chain(model, rest, seed=seed, n_fixed=n_fixed)

    @property
    def is_quick(self) -> bool:
        """Whether a draw is a matter of 0.1 ms even with a large vocabulary: none that another thread is worth."""
        n = self._n_best + len(self._biased) + self._window
        return self._grammar is None and self._n_best > 0 and can_be_found(self._model.n_vocab, n)

    @property
    def may_take_long(self) -> bool:
        """Whether how long a draw takes is for a request's author to say."""
        return self._grammar is not None

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """Know these tokens, which it did not draw itself: call it once, before the first draw."""
        last = [*prompt[-self._window :], *made][-self._window :] if self._window else []
        for token in last:
            self._accept(token)
        if self._grammar:
            for token in made:
                self._follow(token)
        self._position = len(made)
        if not self._is_renewed:
            self._chain.skip(len(made))

    def draw(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """The next token. `candidates`: memory that no other thread uses meanwhile.

        Raises GrammarError where the grammar can't be followed further.
        """
        if self._is_renewed:
            self._chain.renew(seed_at(self._seed, self._position))
        self._position += 1
        if self._grammar:
            return self._draw_fitting(logits, candidates)
        token, _ = self._choose(logits, candidates)
        self._accept(token)
        return token

    def close(self) -> None:
        """Free the chains and the grammar; a second call does nothing."""
        self._chain.close()
        if self._edits:
            self._edits.close()
        if self._grammar:
            lib.llama_sampler_free(self._grammar)
            self._grammar = None

    def _accept(self, token: int) -> None:
        self._recent.append(token)
        if self._edits:
            self._edits.accept(token)
        self._chain.accept(token)

    def _choose(self, logits: NDArray[np.float32], candidates: Candidates) -> tuple[int, float]:
        """The chain's choice of all tokens, and its logit."""
        if not self._offer_likeliest(logits, candidates):
            self._offer(logits, candidates)
        self._chain.apply(candidates)
        return candidates.chosen

    def _offer(self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None = None) -> None:
        candidates.fill(logits, ids)
        if self._edits:
            self._edits.apply(candidates)

    def _offer_likeliest(self, logits: NDArray[np.float32], candidates: Candidates) -> bool:
        """Offer as few tokens as will do; False when it must be all.

        The rest of the chain sees the k likeliest tokens after the edits. Of those that no edit touches, only one with
        fewer than k + n likelier ones before the edits can be among them, when n are touched. In which order C puts
        equal ones depends on all that it sees: then it must see all.
        """
        if not self._n_best:
            return False
        touched = self._biased.union(self._recent) if self._edits else self._biased
        ids = likeliest(logits, self._n_best + len(touched))
        if ids is None:
            return False
        self._offer(logits, candidates, np.union1d(ids, list(touched)) if touched else ids)
        return candidates.have_first(self._n_best)

    def _draw_fitting(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """As common_sampler_sample: to ask the grammar about one token is cheap, about all of them is not."""
        began = thread_time()
        token = self._choose(logits, candidates)
        if not self._fits(*token):
            self._offer(logits, candidates)
            lib.llama_sampler_apply(self._grammar, candidates.reference)
            self._chain.apply(candidates)
            token = candidates.chosen
            if not self._fits(*token):
                return self._end()
        self._accept(token[0])
        self._follow(token[0])
        self._grammar_left_s = min(self._grammar_left_s + GRAMMAR_S - (thread_time() - began), MAX_GRAMMAR_S)
        if self._grammar_left_s < 0:
            raise GrammarError("it takes too long to follow: it can be read in too many ways")
        return token[0]

    def _end(self) -> int:
        """The end token where the grammar, but not the bias, allows it."""
        for token in self._model.end_tokens:
            if self._fits(token):
                return token
        raise GrammarError("no token fits here")

    def _follow(self, token: int) -> None:
        """Lead the grammar on; a token that does not fit would abort."""
        lib.llama_sampler_accept(self._grammar, token)
        self._tail = (self._tail + self._model.piece(token))[-3:]

    def _fits(self, token: int, logit: float = 0.0) -> bool:
        if logit == -math.inf or _NUL.search(self._tail + self._model.piece(token)):
            return False
        one = alone(token)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(one))
        return bool(one.data[0].logit > -math.inf)


class Argmax:
    """Plain greedy in a Sampler's place: 20 us where a chain over all candidates takes 0.3 ms."""

    is_quick, may_take_long = True, False

    def __init__(self, forbidden: Sequence[int] = ()) -> None:
        self._forbidden = list(forbidden)

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """It knows nothing of other tokens."""

    def draw(self, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """The likeliest token, but for the forbidden ones."""
        if self._forbidden:
            logits[self._forbidden] = -np.inf
        return int(logits.argmax())

    def close(self) -> None:
        """There is nothing to free."""


def make(model: Model, sampling: Sampling, *, ignore_eos: bool = False) -> Sampler | Argmax:
    """The sampler for these parameters. Safe beside the engine's thread, which DRY's breakers would hold up: each is
    looked for in every token of the vocabulary.

    Raises LlamaError for a bias on no token of the vocabulary; GrammarError.
    """
    forbidden = set(model.end_tokens) if ignore_eos else set()
    if is_greedy(sampling):
        return Argmax(sorted(forbidden))
    if sampling.grammar:  # it reads control tokens as their spelling, which is no part of the text
        forbidden |= model.control_tokens - model.end_tokens
    links = chain(sampling, sorted(forbidden))
    return Sampler(model, links, seed=sampling.seed, window=window(sampling), grammar=sampling.grammar)


def _n_fixed(links: Sequence[Link], *, varies: bool) -> int:
    """How many links keep what they know; those from the first random one on are made anew for each token if how
    often a token draws `varies`, as it does with XTC."""
    random = [name in RANDOM for name, _ in links]
    varies = varies or "xtc" in (name for name, _ in links)
    return random.index(True) if varies and any(random) else len(links)


def check_grammar(model: Model, text: str) -> None:
    """Raises GrammarError unless a sampler can be made of it."""
    check(text)
    lib.llama_sampler_free(_grammar(model, text))


def _grammar(model: Model, text: str) -> Any:
    """The sampler that masks what does not fit, at the rule `root`; the text must have been checked."""
    source = text.encode()
    try:
        made = run_deep(len(source), partial(lib.llama_sampler_init_grammar, model.vocab, source, b"root"))
    except MemoryError as e:
        raise GrammarError(str(e)) from e
    if not made:
        raise GrammarError("llama.cpp does not understand this grammar.")
    return made
