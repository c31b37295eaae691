"""llama.cpp's sampler chain, its links and the candidates that it works on. model.py's rules hold here too."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from service.engine.llama.chain_links import RANDOM, Link
from service.engine.llama.model import LlamaError, Model

TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Candidates:
    """The memory of one llama_token_data_array, refilled for each sampled token: one for each sampling thread."""

    def __init__(self, n_vocab: int) -> None:
        data = np.zeros(n_vocab, TOKEN_DATA)
        self._data = ctypes.cast(data.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        # Filled by column: numpy copies such records whole at an eighth of the speed, 1.25 ms for 152k.
        self._ids, self._logits = data["id"], data["logit"]
        self._all = np.arange(n_vocab, dtype=np.int32)
        self._array = lib.llama_token_data_array()
        self.reference = ctypes.byref(self._array)  # what C takes

    def fill(self, logits: NDArray[np.float32], ids: NDArray[Any] | None = None) -> None:
        """Offer these tokens, or all, in order of their ids; `logits` are those of the whole vocabulary."""
        n = len(self._all) if ids is None else len(ids)
        self._ids[:n] = self._all if ids is None else ids
        self._logits[:n] = logits if ids is None else logits[ids]
        array = self._array  # a sampler may have moved and shortened it: XTC does
        array.data, array.size, array.selected, array.sorted = self._data, n, -1, False

    def have_first(self, k: int) -> bool:
        """Whether the k likeliest and their order are unique: no two of the k + 1 highest logits are equal. For use
        before a sampler has reordered any."""
        ordered = np.sort(self._logits[: self._array.size])[-k - 1 :]
        return bool((ordered[1:] > ordered[:-1]).all())

    @property
    def chosen(self) -> tuple[int, float]:
        """The token that the chain selected, and its logit: -inf when only excluded tokens were left."""
        array = self._array
        if not 0 <= array.selected < array.size:
            raise LlamaError("the samplers excluded every token")
        one = array.data[array.selected]
        return one.id, one.logit


class Chain:
    """A llama_sampler_chain. Links from `n_fixed` on are recreated for each token (see renew)."""

    def __init__(self, model: Model, links: Sequence[Link], *, seed: int, n_fixed: int) -> None:
        """Raises LlamaError for a link that C refuses."""
        self._model, self._n_fixed, self._renewed = model, n_fixed, links[n_fixed:]
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = lib.llama_sampler_chain_init(params)
        for link in links[:n_fixed]:
            self._add(link, seed)

    def apply(self, candidates: Candidates) -> None:
        """Run all links over the candidates."""
        lib.llama_sampler_apply(self._chain, candidates.reference)

    def accept(self, token: int) -> None:
        """Update the state of all links with the next token."""
        lib.llama_sampler_accept(self._chain, token)

    def renew(self, seed: int) -> None:
        """Recreate the links that draw random numbers, and those after them: 13 us each."""
        while (n := lib.llama_sampler_chain_n(self._chain)) > self._n_fixed:
            lib.llama_sampler_free(lib.llama_sampler_chain_remove(self._chain, n - 1))
        for link in self._renewed:
            self._add(link, seed)

    def skip(self, n: int) -> None:
        """Advance the RNG state, that of the last link, by n draws, as n tokens sampled elsewhere did: 5 us each."""
        last = lib.llama_sampler_chain_get(self._chain, lib.llama_sampler_chain_n(self._chain) - 1)
        for _ in range(n):
            lib.llama_sampler_apply(last, ctypes.byref(alone(0)))

    def close(self) -> None:
        """Free the chain and its links; a second call does nothing."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, link: Link, seed: int) -> None:
        name, arguments = link
        made = MAKERS[name](self._model, *arguments, *([seed] if name in RANDOM else []))
        if not made:  # NULL is a falsy pointer object, not None
            raise LlamaError(f"the sampler {name} could not be created")
        lib.llama_sampler_chain_add(self._chain, made)


def alone(token: int) -> Any:
    """A llama_token_data_array of one."""
    one = lib.llama_token_data(id=token, logit=1.0, p=0.0)
    return lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)


def _bias(model: Model, biases: Sequence[tuple[int, float | None]]) -> Any:
    # One bias per token: of two, C adds both to a candidate that is at its id's index, and one to any other.
    sums: dict[int, float] = {}
    for token, bias in biases:
        sums[token] = sums.get(token, 0.0) + (-math.inf if bias is None else bias)
    array = (lib.llama_logit_bias * len(sums))(*sums.items())
    return lib.llama_sampler_init_logit_bias(model.n_vocab, len(sums), array)


def _dry(
    model: Model, multiplier: float, base: float, allowed_length: int, last_n: int, breakers: Sequence[str]
) -> Any:
    texts = (ctypes.c_char_p * len(breakers))(*[text.encode() for text in breakers])
    return lib.llama_sampler_init_dry(model.vocab, multiplier, base, allowed_length, last_n, texts, len(breakers))


# min_keep is 0, as in llama-server's requests that do not set it. 100: mirostat's m in common/sampling.cpp.
MAKERS: dict[str, Callable[..., Any]] = {
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
