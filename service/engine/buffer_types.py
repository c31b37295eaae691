"""In which of the CPU's buffer types each type of weights is kept: that decides which product multiplies them. Pure.

ggml takes the first that can hold a type (AMX's tiles, repacked rows, then the file's own layout), whatever is fastest
on this processor. The types of buffers and weights have ggml's names here: AMX, CPU_REPACK, CPU; q4_0, q8_0, q4_K.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from .budget import ConfigurationError
from .weights import Kind

AUTO = "auto"
DEFAULT = "default"  # ggml's own choice, of every type
ROWS = (1, 8, 64)  # one stream's decode, that of some streams, a slice of a prompt: each has another product
SAME = 1.03  # times as long is not slower: the least of some looks differs by so much from one second to the next
CLEAR = 0.9  # of ggml's choice's time, at one of ROWS: less does not justify other sums than llama.cpp's
SHARE = 0.02  # of the weights: of fewer no product is worth a measurement

Seconds = tuple[float, ...]  # of a product with each of ROWS


class Products(Protocol):
    """What ggml can multiply with: buffer_timing.py."""

    def holders(self, kind: Kind, /) -> list[str]: ...  # the buffer types that can hold it, in ggml's order
    def seconds(self, kind: Kind, buffer: str, /) -> Seconds: ...
    def refuse(self, kind: Kind, buffer: str, refused: bool, /) -> None: ...  # for models that are loaded from now on


def settle(text: str, types: Mapping[str, Kind], products: Products | None, say: Callable[[str], None]) -> str:
    """Have a model's weights kept where `text` says, or where they are multiplied fastest; returns the choices as a
    word, with which another load makes the same ones, and so the same sums.

    text: RILL_BUFFER_TYPES. types: of the model's weights. products: None for a build that can't be told. say: takes a
    line for people, where the choice is not ggml's. Raises ConfigurationError.
    """
    if products is None:
        if text not in (AUTO, DEFAULT):
            raise ConfigurationError("RILL_BUFFER_TYPES: this llama.cpp was built without Rill's patches: use default")
        return DEFAULT
    holders = {name: products.holders(kind) for name, kind in types.items()}
    choices = _measured(types, holders, products, say) if text == AUTO else _asked(text, holders)
    for name, kind in types.items():
        first = holders[name].index(choices.get(name, holders[name][0]))
        for i, buffer in enumerate(holders[name]):  # what the chosen one can't hold for its shape goes to later ones
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
    """What a word asks for, of the types that this model has. Raises ConfigurationError."""
    try:
        choices = {name: buffer for name, buffer in asked(text).items() if name in holders}
    except ValueError as e:
        raise ConfigurationError(f"RILL_BUFFER_TYPES: {e}") from e
    for name, buffer in choices.items():
        if buffer not in holders[name]:
            raise ConfigurationError(f"RILL_BUFFER_TYPES: {name} weights can be kept in {', '.join(holders[name])}")
    return choices


def choose(seconds: Mapping[str, Seconds]) -> str:
    """The buffer type for one type of weights: ggml's own, the first, or else the fastest of those that are slower in
    no number of rows, and clearly faster in one. seconds: by buffer type, in ggml's order."""
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
    """Choices as one word, which `asked` reads: q4_0=CPU_REPACK,q8_0=CPU."""
    return ",".join(f"{kind}={buffer}" for kind, buffer in sorted(choices.items())) or DEFAULT


def asked(text: str) -> dict[str, str]:
    """The choices that such a word makes, "default" for none. Raises ValueError."""
    if text == DEFAULT:
        return {}
    if not re.fullmatch(r"\w+=\w+(,\w+=\w+)*", text):
        raise ValueError(f"{AUTO}, {DEFAULT}, or like q4_0=CPU_REPACK,q8_0=CPU")
    return dict(pair.split("=") for pair in text.split(","))


def worth_measuring(n_bytes: Mapping[str, int]) -> list[str]:
    """The types of weights that matter, the most first; n_bytes: by type."""
    least = SHARE * sum(n_bytes.values())
    return sorted((kind for kind, n in n_bytes.items() if n > least), key=lambda kind: -n_bytes[kind])
