"""What became of a stream so far, for who paid for it: the JSON that its id answers to who asks for that."""

from __future__ import annotations

from typing import Any

from service.streams import Stream


def receipt(stream: Stream) -> dict[str, Any]:
    """`exact`: whether the same request gives the same text, None where another replica began it; `wasted`: tokens that
    were generated and sent to nobody, known at the end."""
    summary = stream.summary
    generated = summary.n_generated if summary else len(stream.tokens)
    delivered = sum(stream.weights[: stream.n_sent])
    state = stream.phase if stream.open else "failed" if stream.error else "finished"
    return {
        "id": stream.id,
        "state": str(state),
        "finish_reason": summary.finish_reason if summary and not stream.error else None,
        "error": stream.error.body()["error"] if stream.error else None,
        "durable": stream.durable,
        "exact": stream.exact,
        "usage": summary.usage() if summary else None,
        "tokens": {
            "generated": generated,
            "delivered": delivered,
            "wasted": 0 if stream.open else generated - delivered,
        },
    }
