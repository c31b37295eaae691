"""A sequence's sampler: the next token from the logits, and how a new one resumes as if it had never stopped.

A sampler's state follows from the seed and the tokens so far: `go_on` with them makes a new one continue as the old one
would have, except for mirostat and adaptive-p (chain.is_rebuildable).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import thread_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.llama.chain_links import RANDOM, SELECTING, Link
from service.engine.llama.grammar_sampler import GrammarSampler
from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates, Chain
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.chain import chain, is_greedy, n_best, n_edits, seed_at, window
from service.engine.sampling.forbidden import Forbidden
from service.engine.sampling.gbnf import check
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.top_candidates import can_be_found, top_candidates
from service.protocol.sampling import Sampling

# A token bucket: an ambiguous grammar (x ::= "a" x "b" | "a" x "c" | "a") has llama.cpp follow ever more parses with
# each token. A mask over 152k tokens took 0.03 s for JSON, and 0.11 s at worst; most tokens need none.
MAX_GRAMMAR_S = 1.0  # of a thread's CPU time, in addition to what each token brings
GRAMMAR_S = 0.05  # ... for each token


class Sampler:
    """C samplers, built from the links of chain.py, and a grammar that may overrule them.

    The links that change the logits of few tokens are a chain of their own: after them it is known whether the top
    candidates suffice for the rest, which then chooses as if it had seen all (see _offer_likeliest).
    """

    def __init__(
        self,
        model: Model,
        links: Sequence[Link],
        *,
        seed: int = 0,
        window: int = 0,
        grammar: str = "",
        forbidden: Forbidden | None = None,
    ) -> None:
        """window: how many of the last tokens the links look at. forbidden: tokens that may not be drawn.

        Raises LlamaError for a chain that selects nothing, with which C would abort, and for a link it refuses;
        GrammarError.
        """
        if not links or [name for name, _ in links if name in SELECTING] != [name for name, _ in links[-1:]]:
            raise LlamaError("the last link of a sampler chain, and no other, must select a token")
        self._model, self._seed, self._window = model, seed, window
        self._position = 0  # of the next token after the prompt
        self._forbidden = forbidden
        self._made: list[int] = []  # of the answer, where `forbidden` depends on it
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
        """Whether a draw takes about 0.1 ms even with a large vocabulary: not worth another thread."""
        n = self._n_best + len(self._biased) + self._window
        return self._grammar is None and self._n_best > 0 and can_be_found(self._model.n_vocab, n)

    def may_take_long(self, n: int) -> bool:
        """Whether how long n draws take depends on text from the client."""
        return self._grammar is not None

    def excluded(self) -> list[int]:
        """Tokens that may not come next, because of those before."""
        return [] if self._forbidden is None else self._forbidden.after(self._made)

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """Resume after these tokens, which it did not draw itself: call it once, before the first draw."""
        last = [*prompt[-self._window :], *made][-self._window :] if self._window else []
        for token in last:
            self._accept(token)
        if self._grammar:
            for token in made:
                self._grammar.follow(token)
        self._position, self._made = len(made), list(made)
        if not self._is_renewed:
            self._chain.skip(len(made))

    def draw(self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None = None) -> int:
        """The next token, one of `ids` if given. `candidates`: memory that no other thread uses meanwhile.

        Raises GrammarError where the grammar can't be followed further.
        """
        if self._is_renewed:
            self._chain.renew(seed_at(self._seed, self._position))
        self._position += 1
        if self._forbidden is None:
            return self._draw(logits, candidates, ids)
        logits[self.excluded()] = -np.inf
        self._made.append(token := self._draw(logits, candidates, ids))
        return token

    def close(self) -> None:
        """Free the chains and the grammar; a second call does nothing."""
        self._chain.close()
        if self._edits:
            self._edits.close()
        if self._grammar:
            self._grammar.close()

    def _draw(self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None) -> int:
        if self._grammar:
            return self._draw_fitting(self._grammar, logits, candidates)
        token, _ = self._choose(logits, candidates, ids)
        self._accept(token)
        return token

    def _accept(self, token: int) -> None:
        self._recent.append(token)
        if self._edits:
            self._edits.accept(token)
        self._chain.accept(token)

    def _choose(
        self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None = None
    ) -> tuple[int, float]:
        """The chain's choice among all tokens, or these, and its logit."""
        if ids is not None or not self._offer_likeliest(logits, candidates):
            self._offer(logits, candidates, ids)
        self._chain.apply(candidates)
        return candidates.chosen

    def _offer(self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None = None) -> None:
        candidates.fill(logits, ids)
        if self._edits:
            self._edits.apply(candidates)

    def _offer_likeliest(self, logits: NDArray[np.float32], candidates: Candidates) -> bool:
        """Offer the top candidates only; False when it must be all tokens.

        The rest of the chain sees the k likeliest tokens after the edits. If these touch n tokens, an untouched one can
        be among the k only if fewer than k + n were likelier before the edits. In which order C puts equal logits
        depends on all candidates: it must see all of them then.
        """
        if not self._n_best:
            return False
        touched = self._biased.union(self._recent) if self._edits else self._biased
        ids = top_candidates(logits, self._n_best + len(touched))
        if ids is None:
            return False
        self._offer(logits, candidates, np.union1d(ids, list(touched)) if touched else ids)
        return candidates.have_first(self._n_best)

    def _draw_fitting(self, grammar: GrammarSampler, logits: NDArray[np.float32], candidates: Candidates) -> int:
        """As common_sampler_sample: checking one token with the grammar is cheap, checking all of them is not."""
        began = thread_time()
        token = self._choose(logits, candidates)
        if not grammar.fits(*token):
            self._offer(logits, candidates)
            grammar.mask(candidates)
            self._chain.apply(candidates)
            token = candidates.chosen
            if not grammar.fits(*token):
                return self._end(grammar)
        self._accept(token[0])
        grammar.follow(token[0])
        self._grammar_left_s = min(self._grammar_left_s + GRAMMAR_S - (thread_time() - began), MAX_GRAMMAR_S)
        if self._grammar_left_s < 0:
            raise GrammarError("it takes too long to match: it is too ambiguous")
        return token[0]

    def _end(self, grammar: GrammarSampler) -> int:
        """The end token where the grammar, but not the bias, allows it."""
        for token in self._model.end_tokens:
            if grammar.fits(token):
                return token
        raise GrammarError("no token matches here")


def make(
    model: Model, sampling: Sampling, *, ignore_eos: bool = False, forbidden: Forbidden | None = None
) -> Sampler | Argmax:
    """The sampler for these parameters. Safe while the engine's thread runs, which DRY's breakers would delay: each is
    searched for in every token of the vocabulary.

    Raises LlamaError for a bias on no token of the vocabulary; GrammarError.
    """
    banned = set(forbidden.always) if forbidden else set()
    varying = forbidden if forbidden and forbidden.varies else None
    if ignore_eos:
        banned |= model.end_tokens
    if is_greedy(sampling) and varying is None:
        return Argmax(sorted(banned))
    if sampling.grammar:  # it matches control tokens by their spelling, which is no part of the text
        banned |= model.control_tokens - model.end_tokens
    links = chain(sampling, sorted(banned))
    return Sampler(
        model, links, seed=sampling.seed, window=window(sampling), grammar=sampling.grammar, forbidden=varying
    )


def _n_fixed(links: Sequence[Link], *, varies: bool) -> int:
    """How many links keep their state; those from the first random one on are recreated for each token if the number
    of random draws per token `varies`, as it does with XTC."""
    random = [name in RANDOM for name, _ in links]
    varies = varies or "xtc" in (name for name, _ in links)
    return random.index(True) if varies and any(random) else len(links)


def check_grammar(model: Model, text: str) -> None:
    """Raises GrammarError unless a sampler can be made of it."""
    check(text)
    _grammar(model, text).close()


def _grammar(model: Model, text: str) -> GrammarSampler:
    try:
        return GrammarSampler(model, text)
    except LlamaError as e:
        raise GrammarError(str(e)) from e
