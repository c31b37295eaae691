"""Which CPU buffer type holds each type of weights, which decides the kernel that multiplies them. Pure.

ggml takes the first that can hold a type (AMX's tiles, repacked rows, then the file's own layout), even if another is
faster on this processor. Buffer and weight types have ggml's names here: AMX, CPU_REPACK, CPU; q4_0, q8_0, q4_K.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from service.engine.host.resources import ConfigurationError
from service.engine.host.weights import Kind

AUTO = "auto"
DEFAULT = "default"  # ggml's own choice for every type
ROWS = (1, 8, 64)  # a decode of one stream, of several streams, a prefill chunk: each uses another kernel
SAME = 1.03  # times as long is not slower: the minimum of a few runs varies that much from one second to the next
CLEAR = 0.9  # of the time of ggml's choice, at one of ROWS: a smaller gain does not justify other sums than llama.cpp's
SHARE = 0.02  # of the weights: a type with a smaller share is not worth measuring

Seconds = tuple[float, ...]  # of a matrix product with each of ROWS


class Products(Protocol):
    """The matrix products that ggml offers: buffer_timing.py."""

    def holders(self, kind: Kind, /) -> list[str]: ...  # the buffer types that can hold it, in ggml's order
    def seconds(self, kind: Kind, buffer: str, /) -> Seconds: ...
    def refuse(self, kind: Kind, buffer: str, refused: bool, /) -> None: ...  # for models that are loaded from now on


def settle(text: str, types: Mapping[str, Kind], products: Products | None, say: Callable[[str], None]) -> str:
    """Keep a model's weights in the buffer types that `text` names, or in the fastest ones; returns the choices as a
    word with which another load makes the same choices, and so computes the same sums.

    text: RILL_BUFFER_TYPES. types: of the model's weights. products: None for a build without the patch. say: gets a
    log line for each choice that is not ggml's. Raises ConfigurationError.
    """
    if products is None:
        if text not in (AUTO, DEFAULT):
            raise ConfigurationError("RILL_BUFFER_TYPES: this llama.cpp was built without Rill's patches: use default")
        return DEFAULT
    holders = {name: products.holders(kind) for name, kind in types.items()}
    choices = _measured(types, holders, products, say) if text == AUTO else _asked(text, holders)
    for name, kind in types.items():
        first = holders[name].index(choices.get(name, holders[name][0]))
        for i, buffer in enumerate(holders[name]):  # tensors of a shape that it can't hold go to later ones
            products.refuse(kind, buffer, i < first)
    return told(choices)


def _measured(
    types: Mapping[str, Kind], holders: Mapping[str, list[str]], products: Products, say: Callable[[str], None]
) -> dict[str, str]:
    choices = {}
    for name in worth_measuring({name: kind.n_bytes for name, kind in types.items()}):
        if len(holders[name]) < 2:
            continue
        seconds = {buffer: products.seconds(types[name], buffer) for buffer in holders[name]}
        first, chosen = holders[name][0], choose(seconds)
        choices[name] = chosen
        if chosen != first:
            ratios = ", ".join(f"{ratio:.2f}" for ratio in ratios_of(seconds[chosen], seconds[first]))
            rows = ", ".join(map(str, ROWS))
            say(f"{name} weights are kept in {chosen}: {rows} rows take {ratios} of their time in {first}")
    return choices


def _asked(text: str, holders: Mapping[str, list[str]]) -> dict[str, str]:
    """The choices of a word, for the types that this model has. Raises ConfigurationError."""
    try:
        choices = {name: buffer for name, buffer in asked(text).items() if name in holders}
    except ValueError as e:
        raise ConfigurationError(f"RILL_BUFFER_TYPES: {e}") from e
    for name, buffer in choices.items():
        if buffer not in holders[name]:
            raise ConfigurationError(f"RILL_BUFFER_TYPES: {name} weights can be kept in {', '.join(holders[name])}")
    return choices


def choose(seconds: Mapping[str, Seconds]) -> str:
    """The buffer type for one type of weights: ggml's own, the first, or the fastest of those that are not slower for
    any of ROWS, and clearly faster for one. seconds: by buffer type, in ggml's order."""
    first, *others = seconds
    best, least = first, 1.0
    for other in others:
        ratios = ratios_of(seconds[other], seconds[first])
        if max(ratios) <= SAME and min(ratios) <= CLEAR and sum(ratios) / len(ratios) < least:
            best, least = other, sum(ratios) / len(ratios)
    return best


def ratios_of(seconds: Seconds, others: Seconds) -> list[float]:
    return [one / other for one, other in zip(seconds, others, strict=True)]


def told(choices: Mapping[str, str]) -> str:
    """Choices as one word, which `asked` parses: q4_0=CPU_REPACK,q8_0=CPU."""
    return ",".join(f"{kind}={buffer}" for kind, buffer in sorted(choices.items())) or DEFAULT


def asked(text: str) -> dict[str, str]:
    """The choices in such a word; "default": none. Raises ValueError."""
    if text == DEFAULT:
        return {}
    if not re.fullmatch(r"\w+=\w+(,\w+=\w+)*", text):
        raise ValueError(f"{AUTO}, {DEFAULT}, or like q4_0=CPU_REPACK,q8_0=CPU")
    return dict(pair.split("=") for pair in text.split(","))


def worth_measuring(n_bytes: Mapping[str, int]) -> list[str]:
    """The types with more than SHARE of the weights, largest first; n_bytes: by type."""
    least = SHARE * sum(n_bytes.values())
    return sorted((kind for kind, n in n_bytes.items() if n > least), key=lambda kind: -n_bytes[kind])
