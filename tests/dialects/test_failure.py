from __future__ import annotations

import pytest

from service.dialects.events import Dialect
from service.dialects.llama_server import Completion, Deltas
from service.dialects.native import Native
from service.dialects.openai import Answer, Chunks
from service.errors import ContextLengthExceeded
from tests.events import parse


@pytest.mark.parametrize(
    "dialect",
    [
        Native(),
        Chunks(Answer("chat", model="m", fingerprint="f"), include_usage=False),
        Chunks(Answer("text", model="m", fingerprint="f"), include_usage=True),
        Deltas(Completion("m", n_ctx=4, settings={})),
    ],
)
def test_a_failure_has_its_counts(dialect: Dialect) -> None:
    """In every dialect a prompt that is too long is told with its length and the limit, for programs."""
    counts = {"n_prompt_tokens": 9, "n_ctx": 4}
    (event,) = parse(dialect.failure(ContextLengthExceeded("long", counts=counts)) + b"\n\n")
    error = event.json()["error"]
    assert (error["code"], error["n_prompt_tokens"], error["n_ctx"]) == ("context_length_exceeded", 9, 4)
