"""llama-server's native completion (tools/server/README.md, /completion): its events, and its answer in one piece.

The prompt, which it repeats, is left out, and so are token ids and the slot: a stream does not keep the first, and has
no use for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.dialects import sse
from service.dialects.events import Status, Summary
from service.dialects.openai import Answer, Whole
from service.errors import RillError
from service.protocol.said import Said, text_of

STOP_TYPES = {"length": "limit", "stop": "eos"}  # any other end, such as a cancel: none


@dataclass(frozen=True, slots=True)
class Completion:
    """What the last event says of the request. settings: `generation_settings`, but for the seed; n_ctx: tokens that a
    stream may have, prompt and answer together."""

    model: str
    n_ctx: int
    settings: dict[str, Any]

    def final(self, summary: Summary, text: str) -> dict[str, Any]:
        """The last event, or the whole answer."""
        is_full = summary.n_prompt + summary.n_generated >= self.n_ctx
        return piece(text, stop=True) | {
            "model": self.model,
            "tokens_predicted": summary.n_generated,
            "tokens_evaluated": summary.n_prompt,
            "tokens_cached": summary.n_cached,
            "generation_settings": self.settings | {"n_ctx": self.n_ctx, "seed": summary.seed},
            "truncated": is_full and summary.finish_reason == "length",
            "stop_type": STOP_TYPES.get(summary.finish_reason, "none"),
            "stopping_word": "",
            "timings": timings(summary),
        }


def piece(text: str, *, stop: bool = False) -> dict[str, Any]:
    """What every event has."""
    return {"index": 0, "content": text, "tokens": [], "id_slot": -1, "stop": stop}


def timings(summary: Summary) -> dict[str, Any]:
    """llama-server's `timings`; a rate that nothing was measured for is left out."""
    n_read, n_made = summary.n_prompt - summary.n_cached, summary.n_generated
    return (
        {"cache_n": summary.n_cached}
        | _rates("prompt", n_read, 1000 * summary.prefill_s)
        | _rates("predicted", n_made, 1000 * summary.decode_s)
    )


def _rates(name: str, n: int, ms: float) -> dict[str, Any]:
    found: dict[str, Any] = {f"{name}_n": n, f"{name}_ms": round(ms, 3)}
    if n > 0 and ms > 0:
        found |= {f"{name}_per_token_ms": round(ms / n, 3), f"{name}_per_second": round(1000 * n / ms, 3)}
    return found


class Deltas:
    """The streaming dialect: `data:` lines only, and no [DONE]: `stop` is true in the last event."""

    n_kept = 0

    def __init__(self, completion: Completion) -> None:
        self.completion = completion

    def opening(self, status: Status) -> bytes:
        """An empty piece at admission, with the stream's first id."""
        return _data(piece(""))

    def status(self, status: Status) -> bytes:
        return b""

    def delta(self, said: str | Said) -> bytes:
        return _data(piece(text_of(said)))

    def done(self, summary: Summary) -> list[bytes]:
        return [_data(self.completion.final(summary, ""))]

    def failure(self, error: RillError) -> bytes:
        return _data(error.body())

    def heartbeat(self) -> bytes:
        return _data(piece("")) + b"\n\n"


class WholeCompletion(Whole):
    """An answer in one piece: collected as OpenAI's is, with another body."""

    def __init__(self, completion: Completion) -> None:
        super().__init__(Answer("text", model=completion.model, fingerprint=""))
        self.completion = completion

    def body(self, summary: Summary) -> dict[str, Any]:
        return self.completion.final(summary, self.text)


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + sse.dumps(value)
