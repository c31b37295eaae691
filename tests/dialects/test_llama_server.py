from __future__ import annotations

from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from service.dialects.events import Phase, Status
from service.dialects.llama_server import Completion, Deltas, WholeCompletion
from tests.fakes import SUMMARY

COMPLETION = Completion("m", n_ctx=10, settings={"top_k": 40})


def data(event: bytes) -> Any:
    assert event.startswith(b"data: ") and b"\n" not in event
    return orjson.loads(event.removeprefix(b"data: "))


def test_a_stream() -> None:
    """Each event has its content and stop false, the last one has stop true, and nothing follows it."""
    deltas = Deltas(COMPLETION)
    opening, fox = data(deltas.opening(Status(Phase.THINKING))), data(deltas.delta(" fox"))
    assert [(e["content"], e["stop"]) for e in (opening, fox)] == [("", False), (" fox", False)]
    assert deltas.status(Status(Phase.ANSWERING)) == b""
    (last,) = deltas.done(SUMMARY)
    assert data(last) == COMPLETION.final(SUMMARY, "")


def test_the_whole_answer() -> None:
    """It has the text, and counts, settings with the seed and timings by llama-server's names."""
    whole = WholeCompletion(COMPLETION)
    assert (whole.delta("a fo"), whole.delta("x"), whole.done(SUMMARY)) == (b"", b"", [])
    assert whole.body(SUMMARY) == {
        "index": 0,
        "content": "a fox",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": "m",
        "tokens_predicted": 2,
        "tokens_evaluated": 3,
        "tokens_cached": 1,
        "generation_settings": {"top_k": 40, "n_ctx": 10, "seed": 7},
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "timings": {
            "cache_n": 1,
            "prompt_n": 2,
            "prompt_ms": 200.0,
            "prompt_per_token_ms": 100.0,
            "prompt_per_second": 10.0,
            "predicted_n": 2,
            "predicted_ms": 300.0,
            "predicted_per_token_ms": 150.0,
            "predicted_per_second": 6.667,
        },
    }


@pytest.mark.parametrize(
    ("reason", "n_generated", "expected"),
    [
        ("stop", 7, ("eos", False)),
        ("length", 2, ("limit", False)),
        ("length", 7, ("limit", True)),  # the context is full
        ("cancelled", 2, ("none", False)),
    ],
)
def test_how_it_ended(reason: str, n_generated: int, expected: tuple[str, bool]) -> None:
    """stop_type says what ended it, truncated whether that was the context's end."""
    final = COMPLETION.final(replace(SUMMARY, finish_reason=reason, n_generated=n_generated), "")
    assert (final["stop_type"], final["truncated"]) == expected


def test_a_rate_of_nothing_is_left_out() -> None:
    """Without tokens, or in no time, there is no rate, and no division by zero."""
    timings = COMPLETION.final(replace(SUMMARY, n_generated=0, prefill_s=0.0), "")["timings"]
    assert timings == {"cache_n": 1, "prompt_n": 2, "prompt_ms": 0.0, "predicted_n": 0, "predicted_ms": 300.0}


def test_a_heartbeat_is_an_empty_piece() -> None:
    """A whole event without content, for clients that know no comments."""
    beat = Deltas(COMPLETION).heartbeat()
    assert beat.endswith(b"\n\n") and data(beat.removesuffix(b"\n\n"))["content"] == ""
