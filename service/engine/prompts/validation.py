"""The types and ranges of a Submit's values: C takes any number, wraps it, and aborts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from service.protocol.frames import Submit
from service.protocol.sampling import N_SEEDS, Sampling

MAX_LAST_N = 2**16  # tokens looked back at for each new one; C would allocate an array of any size asked for
RANGES = {
    "seed": (0, N_SEEDS - 1),
    "top_k": (-(2**31), 2**31 - 1),
    "repeat_last_n": (0, MAX_LAST_N),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (0, MAX_LAST_N),
    "mirostat": (0, 2),
}
MAX_FLOAT = 3.4e38  # C's are 32 bits wide: a larger one becomes infinity

_SUBMIT, _SAMPLING = get_type_hints(Submit), get_type_hints(Sampling)


def misfit(submit: Submit) -> str | None:
    """The first field with an invalid value; None: all fit."""
    return next(_misfits(submit), None)


def _misfits(submit: Submit) -> Iterator[str]:
    sampling = submit.sampling
    for frame, hints in ((submit, _SUBMIT), (sampling, _SAMPLING)):
        yield from (name for name, hint in hints.items() if not _fits(getattr(frame, name), hint))
    yield from (name for name, (least, most) in RANGES.items() if not least <= getattr(sampling, name) <= most)
    if sampling.repeat_penalty <= 0:
        yield "repeat_penalty"
    if submit.max_tokens is not None and submit.max_tokens < 1:
        yield "max_tokens"
    if submit.pace is not None and submit.pace <= 0:
        yield "pace"


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is one of the type; kinds of types that are unknown here pass."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list and inner[0] is int:  # a prompt's ids: many
        return type(value) is list and set(map(type, value)) <= {int}
    if origin is list:
        return type(value) is list and all(_fits(item, inner[0]) for item in value)
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) and type(value) is tuple else inner
        return type(value) is tuple and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is dict:
        return type(value) is dict and all(_fits(item, inner[1]) for item in value.values())
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MAX_FLOAT
    if hint is int:
        return type(value) is int
    return hint not in (str, bool, NoneType) or type(value) is hint
