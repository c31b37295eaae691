"""How the next token is chosen: llama.cpp's sampling parameters as a frame carries them, in bounds that C can take.

Without these C wraps a number, or aborts. What is read from the wire is checked; a value made here is not.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

N_SEEDS = 2**32 - 1  # of 32 bits; the last number means "random" to llama.cpp: such a stream could not resume
MAX_LAST_N = 2**16  # tokens looked back at for each new one; C would allocate an array of any size asked for
MAX_BIASES = 1024  # tokens; C may search all of them for each candidate
MAX_FLOAT = 3.4e38  # C's are 32 bits wide: a larger one becomes infinity

CFloat = Annotated[float, Meta(ge=-MAX_FLOAT, le=MAX_FLOAT)]
LastN = Annotated[int, Meta(ge=0, le=MAX_LAST_N)]


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the next token is chosen. The defaults are llama.cpp's own; 0 or 1 switch a sampler off as there.

    `seed` is always a number in 0 .. 2**32-2: the front resolves it (2**32-1 means "random" to llama.cpp).
    """

    seed: Annotated[int, Meta(ge=0, lt=N_SEEDS)]
    temperature: CFloat = 0.8
    dynatemp_range: CFloat = 0.0
    dynatemp_exponent: CFloat = 1.0
    top_k: Annotated[int, Meta(ge=-(2**31), lt=2**31)] = 40
    top_p: CFloat = 0.95
    min_p: CFloat = 0.05
    typical_p: CFloat = 1.0
    top_n_sigma: CFloat = -1.0
    xtc_probability: CFloat = 0.0
    xtc_threshold: CFloat = 0.1
    repeat_penalty: Annotated[float, Meta(gt=0, le=MAX_FLOAT)] = 1.0
    repeat_last_n: LastN = 64
    presence_penalty: CFloat = 0.0
    frequency_penalty: CFloat = 0.0
    dry_multiplier: CFloat = 0.0
    dry_base: CFloat = 1.75
    dry_allowed_length: Annotated[int, Meta(ge=0, lt=2**31)] = 2
    dry_penalty_last_n: LastN = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: Annotated[int, Meta(ge=0, le=2)] = 0
    mirostat_tau: CFloat = 5.0
    mirostat_eta: CFloat = 0.1
    adaptive_target: CFloat = -1.0  # negative: off
    adaptive_decay: CFloat = 0.9
    # (token, added to its logit), or (text, added to those of all its tokens); None: never sampled
    logit_bias: tuple[tuple[int | str, CFloat | None], ...] = ()
    grammar: str = ""  # GBNF; "": any text
