"""A stream's state and usage so far, for billing: the JSON response of GET /v1/streams/{id}."""

from __future__ import annotations

from typing import Any

from service.streams.stream import Stream


def receipt(stream: Stream) -> dict[str, Any]:
    """`exact`: whether the same request gives the same text, None where another replica began it; `wasted`: generated
    tokens that no reader was sent, known at the end."""
    summary = stream.summary
    generated = summary.n_generated if summary else len(stream.tokens)
    delivered = sum(stream.log.weights[: stream.log.n_sent])
    state = stream.phase if stream.open else "failed" if stream.error else "finished"
    return {
        "id": stream.id,
        "state": str(state),
        "finish_reason": summary.finish_reason if summary and not stream.error else None,
        "error": stream.error.body()["error"] if stream.error else None,
        "durable": stream.log.is_durable,
        "exact": stream.exact,
        "usage": summary.usage() if summary else None,
        "tokens": {
            "generated": generated,
            "delivered": delivered,
            "wasted": 0 if stream.open else generated - delivered,
        },
    }
