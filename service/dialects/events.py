"""A stream's phases, status and summary, and the Dialect that encodes them as one route's events."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct

from service.errors import RillError
from service.protocol.said import Said


class Phase(StrEnum):
    SUBMITTED = "submitted"  # the engine has not accepted the prompt yet: the event log is empty
    QUEUED = "queued"
    THINKING = "thinking"
    ANSWERING = "answering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Status:
    """A stream's state before its answer. Shares of 0..1, seconds, tokens; position 0: not waiting."""

    phase: Phase
    position: int = 0
    eta_s: float | None = None
    progress: float | None = None
    n_done: int | None = None
    n_prompt: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


class Summary(Struct, frozen=True, kw_only=True):
    """A finished stream's totals: the source of `usage`, `timings` and the metrics alike."""

    finish_reason: str
    n_prompt: int
    n_cached: int
    n_generated: int
    seed: int
    queue_s: float  # accepted by the engine -> first prefill chunk
    prefill_s: float  # first prefill chunk -> first token
    ttft_s: float | None  # request arrived -> first delta logged; None: there was none
    decode_s: float  # first token -> last token
    total_s: float  # request arrived -> closed

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_generated,
            "total_tokens": self.n_prompt + self.n_generated,
            "prompt_tokens_details": {"cached_tokens": self.n_cached},
        }

    def timings(self) -> dict[str, Any]:
        """Seconds; tokens_per_s counts the gaps between tokens. Missing values are left out: strict clients accept no
        null for a number."""
        n_gaps = self.n_generated - 1
        found = {
            "queue_s": round(self.queue_s, 4),
            "prefill_s": round(self.prefill_s, 4),
            "ttft_s": None if self.ttft_s is None else round(self.ttft_s, 4),
            "decode_s": round(self.decode_s, 4),
            "total_s": round(self.total_s, 4),
            "tokens_per_s": round(n_gaps / self.decode_s, 2) if n_gaps > 0 and self.decode_s > 0 else None,
        }
        return {name: value for name, value in found.items() if value is not None}


class Dialect(Protocol):
    """How one route encodes events. An empty result means: this dialect has no such event."""

    @property
    def n_kept(self) -> int:
        """Bytes of the answer that it keeps itself, since they are in no event."""

    def opening(self, status: Status) -> bytes: ...
    def status(self, status: Status) -> bytes: ...
    def delta(self, said: str | Said) -> bytes: ...
    def done(self, summary: Summary) -> list[bytes]: ...
    def failure(self, error: RillError) -> bytes: ...
    def heartbeat(self) -> bytes: ...  # an empty event, for readers that know no comments
