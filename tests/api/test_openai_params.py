from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialects.events import Phase, Status, Summary
from service.dialects.logprobs import Kind
from service.dialects.openai import Answer, Chunks, Whole
from service.errors import EngineCrash

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["chat", "text"])
SUMMARY = Summary(
    finish_reason="length",
    n_prompt=3,
    n_cached=1,
    n_generated=2,
    seed=7,
    queue_s=0.1,
    prefill_s=0.2,
    ttft_s=0.3,
    decode_s=0.5,
    total_s=1.0,
)


def data(body: bytes) -> dict[str, Any]:
    """The JSON object in one data line."""
    assert body.startswith(b"data: ") and b"\n" not in body
    value = orjson.loads(body.removeprefix(b"data: "))
    assert isinstance(value, dict)
    return value


@given(KINDS, TEXTS, TEXTS.filter(bool), st.booleans())
def test_any_text_under_any_model_name(kind: Kind, model: str, text: str, include_usage: bool) -> None:
    """The chunk assembled from parts equals one serialized as a whole; model name and text are unchanged."""
    chunk = data(Chunks(Answer(kind, model=model, fingerprint="f"), include_usage=include_usage).delta(text))
    (choice,) = chunk["choices"]
    assert (choice["delta"]["content"] if kind == "chat" else choice["text"]) == text
    assert (chunk["model"], choice["index"], choice["finish_reason"]) == (model, 0, None)
    assert ("usage" in chunk) == include_usage


def test_the_first_chunk_has_no_text() -> None:
    """It carries the role and the stream's first id."""
    chunks = Chunks(Answer("chat", model="m", fingerprint="f"), include_usage=False)
    assert data(chunks.opening(Status(Phase.THINKING)))["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks.status(Status(Phase.ANSWERING)) == b""


@pytest.mark.parametrize("include_usage", [True, False])
def test_the_end(include_usage: bool) -> None:
    """The end has the finish reason with timings and seed, the usage if requested, and [DONE]."""
    chunks = Chunks(Answer("text", model="m", fingerprint="f"), include_usage=include_usage)
    last, *usage, done = chunks.done(SUMMARY)
    assert done == b"data: [DONE]"
    assert (data(last)["choices"][0]["finish_reason"], data(last)["seed"]) == ("length", 7)
    assert data(last)["timings"]["tokens_per_s"] == 2.0
    assert [data(body)["usage"]["total_tokens"] for body in usage] == ([5] if include_usage else [])


def test_a_failure_is_an_error_object() -> None:
    """It has the form that openai-python looks for."""
    body = Chunks(Answer("chat", model="m", fingerprint="f"), include_usage=False).failure(EngineCrash("gone"))
    assert data(body)["error"]["code"] == "engine_crash"


def test_a_whole_answer_has_no_event_before_its_end() -> None:
    """Its parts produce no events; joined they are the content."""
    whole = Whole(Answer("chat", model="m", fingerprint="f"))
    said = [whole.opening(Status(Phase.QUEUED, 1)), whole.delta("a"), whole.delta("b"), whole.failure(EngineCrash("x"))]
    assert (b"".join(said), whole.done(SUMMARY)) == (b"", [])
    body = whole.body(SUMMARY)
    assert (body["choices"][0]["message"]["content"], body["seed"]) == ("ab", 7)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
