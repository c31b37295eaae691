"""The model's own defaults of sampling parameters, from its file's metadata. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from service.protocol.sampling import Sampling

# Sampling's fields by llama.cpp's keys (llama_model_meta_key_str in src/llama-model.cpp). It has
# general.sampling.sequence, too: the order of the samplers, which is fixed here.
KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
WHOLE = frozenset({"top_k", "repeat_last_n", "mirostat"})


def sampling_defaults(meta: Callable[[str], str | None]) -> tuple[dict[str, float], list[str]]:
    """The values by Sampling's names, and the keys whose values can't be used. meta: a metadata value as text."""
    found, unusable = dict[str, float](), list[str]()
    for key, name in KEYS.items():
        text = meta(f"general.sampling.{key}")
        value = None if text is None else _value(name, text)
        if value is not None:
            found[name] = value
        elif text is not None:
            unusable.append(f"general.sampling.{key}")
    return found, unusable


def _value(name: str, text: str) -> float | None:
    """None: it is no number, or out of Sampling's bounds."""
    try:
        number = float(text)
        value = int(number) if name in WHOLE else number
        msgspec.convert({"seed": 0, name: value}, Sampling)
    except (ValueError, OverflowError):  # msgspec's ValidationError is a ValueError
        return None
    return value if math.isfinite(number) else None
