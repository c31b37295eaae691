"""What a delta says where that is more than text: log-probabilities. Plain values, in the engine's frames."""

from __future__ import annotations

from msgspec import Struct, field


class Candidate(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A token that could have come, with its log-probability."""

    token: str  # its text, with broken UTF-8 as U+FFFD; of a control token how the vocabulary spells it
    piece: bytes | None  # what it adds to the answer; None: a control token, which adds nothing
    logprob: float


class TokenLogprob(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A token that came, as a Candidate; `offset`: characters of the text before it; `top`: the likeliest first."""

    token: str
    piece: bytes | None
    logprob: float | None  # None: a prompt's first token
    offset: int
    top: list[Candidate] = field(default_factory=list)


class Said(Struct, frozen=True, forbid_unknown_fields=True):
    """The text of a delta, and the log-probabilities of its tokens."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)


def text_of(said: str | Said) -> str:
    """The text of a delta, which is all that most deltas have."""
    return said if isinstance(said, str) else said.text
