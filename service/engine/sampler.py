"""llama.cpp's samplers: a chain of them for each sequence, and the grammar beside it. llama.py's rules hold here too.

What a sampler knows follows from the seed and the tokens so far: `go_on` with them makes a new one go on as another
would have, except for mirostat and adaptive-p (sampling.is_rebuildable).
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from time import thread_time
from typing import Any, TypeGuard

import llama_cpp as lib

from .grammar import GrammarError, check
from .llama import Context, LlamaError, Model
from .protocol import Sampling
from .sampling import RANDOM, SELECTING, Link, chain, is_greedy, seed_at, window
from .stack import run_deep

# An ambiguous grammar (x ::= "a" x "b" | "a" x "c" | "a") has llama.cpp follow ever more ways with each token, while
# all other streams wait. 0.5: a mask over 152k tokens took 0.03 s for JSON, and 0.11 s at worst.
MAX_GRAMMAR_S = 0.5  # of this thread's computing, for one token

# What llama.cpp's grammars decode to the character 0, which it takes for the end of a token and lets pass, and aborts
# on when it is accepted. It does not look whether what follows within a token continues the character.
_NUL = re.compile(rb"\xc0[@\x80\xc0]|\xe0[@\x80\xc0]{2}|\xf0[@\x80\xc0]{3}")


class Sampler:
    """A C sampler chain, built from sampling.chain's links, and a grammar that has the last word."""

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
        n_fixed = _n_fixed(links, varies=bool(grammar))
        self._n_fixed, self._renewed = n_fixed, links[n_fixed:]
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = lib.llama_sampler_chain_init(params)
        for link in links[:n_fixed]:
            self._add(link, seed)

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """Know these tokens, which it did not draw itself: call it once, before the first draw."""
        last = [*prompt[-self._window :], *made][-self._window :] if self._window else []
        for token in last:
            lib.llama_sampler_accept(self._chain, token)
        if self._grammar:
            for token in made:
                self._follow(token)
        self._position = len(made)
        if not self._renewed:
            self._skip(len(made))

    def draw(self, context: Context, index: int) -> int:
        """The next token after batch index `index`. Raises GrammarError where the grammar can't be followed further."""
        self._renew()
        self._position += 1
        return self._draw_fitting(context, index) if self._grammar else context.sample(self._chain, index)

    def close(self) -> None:
        """Free the chain and its links; a second call does nothing."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            lib.llama_sampler_free(self._grammar)
            self._chain = self._grammar = None

    def _add(self, link: Link, seed: int) -> None:
        name, arguments = link
        made = _LINKS[name](self._model, *arguments, *([seed] if name in RANDOM else []))
        if not made:  # NULL is a falsy pointer object, not None
            raise LlamaError(f"the sampler {name} could not be made")
        lib.llama_sampler_chain_add(self._chain, made)

    def _renew(self) -> None:
        """Make the links that draw, and those behind them, anew for the present position: 13 us each."""
        if not self._renewed:
            return
        while (n := lib.llama_sampler_chain_n(self._chain)) > self._n_fixed:
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(self._chain, n - 1))
        for link in self._renewed:
            self._add(link, seed_at(self._seed, self._position))

    def _skip(self, n: int) -> None:
        """Take n draws from the chain's one generator, as n tokens did that were drawn elsewhere: 5 us each."""
        last = lib.llama_sampler_chain_get(self._chain, lib.llama_sampler_chain_n(self._chain) - 1)
        for _ in range(n):
            lib.llama_sampler_apply(last, ctypes.byref(_candidate(0)))

    def _draw_fitting(self, context: Context, index: int) -> int:
        """As common_sampler_sample: to ask the grammar about one token is cheap, about all of them is not."""
        began = thread_time()
        token = self._select(context.candidates(index))
        if not self._fits(token):
            candidates = context.candidates(index)
            lib.llama_sampler_apply(self._grammar, ctypes.byref(candidates))
            token = self._select(candidates)
            if not self._fits(token):
                return self._end()
        lib.llama_sampler_accept(self._chain, token)
        self._follow(token)
        if thread_time() - began > MAX_GRAMMAR_S:
            raise GrammarError("it can be read in too many ways")
        return token

    def _end(self) -> int:
        """The end token where the grammar, but not the bias, allows it."""
        for token in self._model.end_tokens:
            if self._fits(token):
                return token
        raise GrammarError("no token fits here")

    def _select(self, candidates: Any) -> int | None:
        """The chain's choice; None when it has none but what is ruled out."""
        lib.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        chosen = candidates.data[candidates.selected]
        return int(chosen.id) if chosen.logit > -math.inf else None

    def _follow(self, token: int) -> None:
        """Lead the grammar on; a token that does not fit would abort."""
        lib.llama_sampler_accept(self._grammar, token)
        self._tail = (self._tail + self._model.piece(token))[-3:]

    def _fits(self, token: int | None) -> TypeGuard[int]:
        if token is None or _NUL.search(self._tail + self._model.piece(token)):
            return False
        alone = _candidate(token)
        lib.llama_sampler_apply(self._grammar, ctypes.byref(alone))
        return bool(alone.data[0].logit > -math.inf)


class Argmax:
    """Plain greedy in a Sampler's place: 14 us where a chain, which builds an array of all candidates, takes 0.3 ms."""

    def __init__(self, forbidden: Sequence[int] = ()) -> None:
        self._forbidden = forbidden

    def go_on(self, prompt: Sequence[int], made: Sequence[int]) -> None:
        """It knows nothing of other tokens."""

    def draw(self, context: Context, index: int) -> int:
        """The likeliest token after batch index `index`, but for the forbidden ones."""
        return context.argmax(index, self._forbidden)

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


def _candidate(token: int) -> Any:
    """A llama_token_data_array of one."""
    one = lib.llama_token_data(id=token, logit=1.0, p=0.0)
    return lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)


def _grammar(model: Model, text: str) -> Any:
    """The sampler that masks what does not fit, at the rule `root`."""
    check(text)
    source = text.encode()
    try:
        made = run_deep(len(source), partial(lib.llama_sampler_init_grammar, model.vocab, source, b"root"))
    except MemoryError as e:
        raise GrammarError(str(e)) from e
    if not made:
        raise GrammarError("llama.cpp does not understand this grammar.")
    return made


def _bias(model: Model, biases: Sequence[tuple[int, float | None]]) -> Any:
    array = (lib.llama_logit_bias * len(biases))(*[(t, -math.inf if b is None else b) for t, b in biases])
    return lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), array)


def _dry(
    model: Model, multiplier: float, base: float, allowed_length: int, last_n: int, breakers: Sequence[str]
) -> Any:
    texts = (ctypes.c_char_p * len(breakers))(*[text.encode() for text in breakers])
    return lib.llama_sampler_init_dry(model.vocab, multiplier, base, allowed_length, last_n, texts, len(breakers))


# min_keep is 0, as in llama-server's requests that do not name it. 100: mirostat's m in common/sampling.cpp.
_LINKS: dict[str, Callable[..., Any]] = {
    "bias": _bias,
    "penalties": lambda model, *a: lib.llama_sampler_init_penalties(model.n_vocab, *a),
    "dry": _dry,
    "top_n_sigma": lambda _, n: lib.llama_sampler_init_top_n_sigma(n),
    "top_k": lambda _, k: lib.llama_sampler_init_top_k(k),
    "typical_p": lambda _, p: lib.llama_sampler_init_typical(p, 0),
    "top_p": lambda _, p: lib.llama_sampler_init_top_p(p, 0),
    "min_p": lambda _, p: lib.llama_sampler_init_min_p(p, 0),
    "xtc": lambda _, p, threshold, seed: lib.llama_sampler_init_xtc(p, threshold, 0, seed),
    "temperature": lambda _, t: lib.llama_sampler_init_temp(t),
    "dynamic_temperature": lambda _, *a: lib.llama_sampler_init_temp_ext(*a),
    "draw": lambda _, seed: lib.llama_sampler_init_dist(seed),
    "greedy": lambda _: lib.llama_sampler_init_greedy(),
    "mirostat": lambda model, *a: lib.llama_sampler_init_mirostat(model.n_vocab, *a, 100),
    "mirostat_v2": lambda _, *a: lib.llama_sampler_init_mirostat_v2(*a),
    "adaptive_p": lambda _, *a: lib.llama_sampler_init_adaptive_p(*a),
}
