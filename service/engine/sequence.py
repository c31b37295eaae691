"""One prompt and its tokens: a sequence knows what it has computed, what it may still make, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .protocol import Finish, FinishReason
from .text import Text

# How far a paced sequence runs ahead of its reader before it rests: enough that a few long steps do not show.
AHEAD_S = 1.0
AHEAD_TOKENS = 4


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Tokens [0, n_past) have their cells in the KV cache; the rest, `pending`, must be decoded to go on.

    While it runs it owns `seq_id`. The next token is sampled once nothing is pending. Times are seconds of one
    monotonic clock, 0 until they happen.
    """

    id: str
    tokens: list[int]  # the prompt, then what was generated
    n_prompt: int
    max_tokens: int
    text: Text
    stop_tokens: frozenset[int] = frozenset()  # beside the model's end tokens
    tenant: str = ""  # whose time it takes
    scope: str = ""  # with whom it shares prefixes
    pace: float | None = None  # tokens a second that its reader is sent
    passes: bool = False  # was let in before one for which there was no room
    n_safe: int = 0  # tokens; until it has as many its cells are not taken for another tenant
    draws_aside: bool = False  # its draws may take long: others do not wait for them
    draw_s: float = 0.0  # what its last one took
    is_drawing: bool = False  # its next token is being drawn: there is nothing to compute until it is there
    is_owed: bool = False  # it has waited elsewhere, and comes before who came here
    seq_id: int = -1
    n_past: int = 0
    n_unread: int = 0  # of the prompt, promised to its tenant (served.py)
    n_cached: int = 0  # tokens of the prompt that were shared, not computed
    leader: Sequence | None = None  # reads what this one waits for, its first n_awaited tokens
    n_awaited: int = 0
    boundaries: set[int] = field(default_factory=set)  # of n_past, at which to leave a copy for others
    turn: int = 0  # the last step it was in
    n_delivered: int = 0  # tokens of the answer that it came with
    finish_reason: FinishReason | None = None
    held: list[int] = field(default_factory=list)  # generated, but their text is not deliverable yet
    accepted_at: float = 0.0
    started_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    @property
    def n_generated(self) -> int:
        """Tokens made so far; the end token is not one of them."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens without cells: the prompt's rest while it is prefilled, 1 while it decodes."""
        return len(self.tokens) - self.n_past

    @property
    def is_prefilling(self) -> bool:
        """Whether there is more to read than the one token that decoding feeds back."""
        return not self.is_drawing and (self.n_pending > 1 or self.n_generated == 0)

    @property
    def is_decoding(self) -> bool:
        """Whether one token is to be computed, the last one made."""
        return self.n_pending > 0 and not self.is_prefilling

    def ahead_s(self, now: float) -> float:
        """For how long its reader has enough to read; below 0: it is due."""
        if self.pace is None or not self.first_token_at:
            return -math.inf
        n_made = self.n_generated - self.n_delivered
        return (n_made - AHEAD_TOKENS) / self.pace - AHEAD_S - (now - self.first_token_at)

    def go_on(self, delivered: list[int], pieces: list[bytes]) -> None:
        """Take what was delivered before it came here: only what follows is still to be said.

        It may have been over with these: then finish_reason is set.
        """
        self.tokens = self.tokens + delivered
        self.n_delivered = len(delivered)
        for piece in pieces:
            self.text.push(piece)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif delivered and self.n_generated >= self.max_tokens:
            self.finish_reason = "length"

    def accept(self, token: int, piece: bytes, is_end: bool, now: float) -> str:
        """Take a sampled token; returns the text that it made deliverable and sets finish_reason at the end."""
        self.first_token_at = self.first_token_at or now
        self.last_token_at = now
        if is_end:
            self.finish_reason = "stop"
            return self.text.push(b"", final=True)
        self.tokens.append(token)
        self.held.append(token)
        text = self.text.push(piece)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif self.n_generated >= self.max_tokens:
            self.finish_reason = "length"
            text += self.text.push(b"", final=True)
        return text

    def take_held(self) -> list[int]:
        """The tokens that the text just made deliverable stands for."""
        held, self.held = self.held, []
        return held

    def finish(self) -> Finish:
        """What door 2 reports once finish_reason is set."""
        assert self.finish_reason is not None
        first, started = self.first_token_at, self.started_at
        return Finish(
            id=self.id,
            reason=self.finish_reason,
            n_prompt=self.n_prompt,
            n_cached=self.n_cached,
            n_generated=self.n_generated,
            queue_s=started - self.accepted_at if started else 0.0,
            prefill_s=first - started if first else 0.0,
            decode_s=self.last_token_at - first if first else 0.0,
        )

    def __repr__(self) -> str:
        where = f"seq {self.seq_id}" if self.seq_id >= 0 else "waiting"
        made = f"{self.n_generated}/{self.max_tokens}"
        return f"<Sequence {self.id[:8]} {where}, {self.n_past}/{len(self.tokens)} cells, {made} made>"
