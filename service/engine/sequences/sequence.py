"""One prompt and its tokens: what has been computed, what may still be generated, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engine.sequences.echo import Echo
from service.engine.sequences.text import Text
from service.protocol.frames import Finish, FinishReason
from service.protocol.said import Said, TokenLogprob

# How far a paced sequence runs ahead of its client before it pauses: enough to hide a few long steps.
AHEAD_S = 1.0
AHEAD_TOKENS = 4


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """Tokens [0, n_past) have their cells in the KV cache; the rest are pending, and must be decoded to continue.

    While it runs it owns `seq_id`. The next token is sampled once nothing is pending. Times are seconds of one
    monotonic clock, 0 until they happen.
    """

    id: str
    tokens: list[int]  # the prompt, then what was generated
    n_prompt: int
    max_tokens: int
    text: Text
    # What ends the answer in addition to the model's end tokens, and the text that each adds to it.
    stop_tokens: Mapping[int, bytes] = field(default_factory=dict)
    shows_special: bool = False  # its text has control tokens, as the vocabulary spells them
    max_s: float = 0.0  # of decoding: the next line that is complete after that ends the answer; 0: no limit
    tenant: str = ""  # charged for its time
    scope: str = ""  # it shares prefixes within the same scope only
    takes_cached: bool = True  # it shares others' prefixes
    pace: float | None = None  # tokens a second that its client is sent
    n_logprobs: int | None = None  # of how many of the likeliest tokens log-probabilities are wanted; None: of none
    passes: bool = False  # was admitted before one for which there was no room
    n_safe: int = 0  # tokens; until it has as many it is not preempted for another tenant
    draw_s: float = 0.0  # seconds that its last token took to sample
    is_drawing: bool = False  # its next token is being sampled: there is nothing to compute until then
    is_owed: bool = False  # another replica had admitted it: it is queued before new requests
    seq_id: int = -1
    n_past: int = 0
    n_unread: int = 0  # of the prompt, promised to its tenant (scheduling/fairness.py)
    n_cached: int = 0  # tokens of the prompt that were shared, not computed
    prefix_source: Sequence | None = None  # prefills what this one waits for, its first n_awaited tokens
    n_awaited: int = 0
    boundaries: set[int] = field(default_factory=set)  # of n_past, at which to leave a copy for others
    turn: int = 0  # the last step it was in
    n_delivered: int = 0  # tokens of the answer that the request came with
    finish_reason: FinishReason | None = None
    held: list[int] = field(default_factory=list)  # generated, but their text is not deliverable yet
    held_logprobs: list[TokenLogprob] = field(default_factory=list)  # theirs, where wanted
    echo: Echo | None = None  # the prompt, to be repeated before the answer
    n_unscored: int = 0  # tokens of the prompt with log-probabilities that are still to be computed
    accepted_at: float = 0.0
    started_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    @property
    def n_generated(self) -> int:
        """Tokens generated so far; the end token is not one of them."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens without cells: the prompt's rest while it is prefilled, 1 while it decodes."""
        return len(self.tokens) - self.n_past

    @property
    def is_prefilling(self) -> bool:
        """Whether more is pending than the one token that a decode step feeds back."""
        return not self.is_drawing and (self.n_pending > 1 or self.n_generated == 0)

    @property
    def is_decoding(self) -> bool:
        """Whether one token is pending, the last one generated."""
        return self.n_pending > 0 and not self.is_prefilling

    @property
    def holds(self) -> bool:
        """Whether something of it is not delivered yet."""
        return bool(self.held or self.held_logprobs or self.echo)

    def n_scoring(self, n: int) -> int:
        """Of its next n pending tokens, how many of the last need logits for the prompt's log-probabilities."""
        first = self.n_prompt - 1 - self.n_unscored
        return max(0, min(n, self.n_past + n - first)) if self.n_unscored else 0

    def ahead_s(self, now: float) -> float:
        """Seconds for which its client has tokens at its pace; below 0: it is due."""
        if self.pace is None or not self.first_token_at:
            return -math.inf
        n_made = self.n_generated - self.n_delivered
        return (n_made - AHEAD_TOKENS) / self.pace - AHEAD_S - (now - self.first_token_at)

    def go_on(self, delivered: list[int], pieces: list[bytes]) -> None:
        """Take tokens that an earlier engine delivered: only what follows is still to be sent.

        The answer may have ended with these: then finish_reason is set.
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
            return self.text.push(self.stop_tokens.get(token, b""), final=True)
        self.tokens.append(token)
        self.held.append(token)
        text = self.text.push(piece)
        if self.text.stopped:
            self.finish_reason = "stop"
        elif self.n_generated >= self.max_tokens or self._is_late(piece, now):
            self.finish_reason = "length"
            text += self.text.push(b"", final=True)
        return text

    def _is_late(self, piece: bytes, now: float) -> bool:
        return 0 < self.max_s < now - self.first_token_at and b"\n" in piece

    def take_held(self) -> list[int]:
        """The tokens of the text that has just become deliverable."""
        held, self.held = self.held, []
        return held

    def say(self, text: str) -> str | Said:
        """The text that has just become deliverable, with what it has to be delivered with."""
        logprobs, self.held_logprobs = self.held_logprobs, []
        if self.echo:
            text, self.echo = self.echo.text + text, None
        return Said(text, logprobs) if logprobs else text

    def finish(self) -> Finish:
        """The frame for the front, once finish_reason is set."""
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
