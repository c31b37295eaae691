"""How the next token is chosen: llama.cpp's sampling parameters, as a frame carries them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

N_SEEDS = 2**32 - 1  # of 32 bits; the last number means "random" to llama.cpp: such a stream could not resume


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The defaults are llama.cpp's own; 0 or 1 switch a sampler off as there.

    `seed` is always a number in 0 .. 2**32-2: the front resolves it (2**32-1 means "random" to llama.cpp).
    """

    seed: int
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # negative: off
    adaptive_decay: float = 0.9
    logit_bias: tuple[tuple[int, float | None], ...] = ()  # (token, added to its logit); None: never sampled
    grammar: str = ""  # GBNF; "": any text

    @classmethod
    def of(cls, values: dict[str, Any]) -> Sampling:
        """From JSON values of its fields. Raises TypeError for an unknown field."""
        return cls(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
