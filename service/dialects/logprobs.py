"""Log-probabilities as OpenAI's routes and /stream show them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import orjson

from service.protocol.said import Candidate, TokenLogprob

Kind = Literal["chat", "text"]
_REST: dict[Kind, dict[str, Any]] = {"chat": {"refusal": None}, "text": {}}  # what is in it besides the lists


def entries(logprobs: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """One for each token: `token`, `logprob`, `bytes` (None: it adds no text) and `top_logprobs`."""
    return [_entry(one) | {"top_logprobs": [_entry(other) for other in one.top]} for one in logprobs]


def of_choice(kind: Kind, logprobs: list[TokenLogprob]) -> dict[str, Any]:
    """A choice's `logprobs` for these tokens."""
    return _lists(kind, logprobs) | _REST[kind]


class Collected:
    """A choice's `logprobs` as JSON, from one delta after another.

    Each delta is encoded when it comes: encoding those of a long answer at its end would stop all streams meanwhile.
    """

    def __init__(self, kind: Kind, json: bytes = b"") -> None:
        """json: of another one, which is complete."""
        self._kind, self._json = kind, json
        self._parts: dict[str, list[bytes]] = {}
        self.n_bytes = len(json)

    def add(self, logprobs: list[TokenLogprob]) -> None:
        """Those of the next tokens."""
        for name, values in _lists(self._kind, logprobs).items():
            part = orjson.dumps(values)[1:-1]
            self._parts.setdefault(name, []).append(part)
            self.n_bytes += len(part)

    @property
    def json(self) -> bytes:
        """All so far; empty if there were none."""
        if not self._parts:
            return self._json
        lists = {name: orjson.Fragment(b"[" + b",".join(parts) + b"]") for name, parts in self._parts.items()}
        json = orjson.dumps(lists | _REST[self._kind])
        return bytes(memoryview(json))  # a copy: what orjson returns occupies five times its length


def _lists(kind: Kind, logprobs: list[TokenLogprob]) -> dict[str, list[Any]]:
    """Of chat completions one, of completions four."""
    if kind == "chat":
        return {"content": entries(logprobs)}
    return {
        "tokens": [one.token for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [_by_text(one) for one in logprobs],
        "text_offset": [one.offset for one in logprobs],
    }


def _entry(one: TokenLogprob | Candidate) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": None if one.piece is None else list(one.piece)}


def _by_text(one: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens and the one that came. Of several with the same text the likeliest counts."""
    if one.logprob is None:
        return None
    found: dict[str, float] = {}
    for token, logprob in (*((other.token, other.logprob) for other in one.top), (one.token, one.logprob)):
        found.setdefault(token, logprob)
    return found
