from __future__ import annotations

from collections.abc import Iterator

import pytest

from service import errors
from service.errors import RillError, refused_by_engine
from service.metrics.requests import OUTCOMES


def tree(root: type[RillError] = RillError) -> Iterator[type[RillError]]:
    yield root
    for below in root.__subclasses__():
        yield from tree(below)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_knows_its_status_its_code_and_its_outcome(kind: type[RillError]) -> None:
    """A 4xx is the client's fault, a 5xx the service's; the outcome is one of the metrics' (or a reader's, `lost`)."""
    assert 400 <= kind.status < 600 and kind.code.isidentifier()
    assert kind.outcome in OUTCOMES or kind is errors.StreamLost
    assert (kind.status >= 500) == (kind.type == "server_error")


def test_the_body_is_openais() -> None:
    """Exactly these four fields, and counts that a program may use."""
    error = errors.Unsupported("no", param="n")
    assert error.body() == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "unsupported_parameter"}
    }


@pytest.mark.parametrize(
    "code", ["context_length_exceeded", "unsupported_parameter", "invalid_prompt", "", "A b", "x" * 65]
)
def test_an_engine_refusal_is_a_400(code: str) -> None:
    """Known codes keep their class, other valid ones their name; invalid ones are not passed on."""
    error = refused_by_engine(code, "why", "prompt", {"n_ctx": 5})
    assert (error.status, error.message, error.param) == (400, "why", "prompt")
    assert error.body()["error"]["n_ctx"] == 5
    assert error.code == (code if code.isidentifier() and code.islower() and len(code) <= 64 else "invalid_request")


def test_a_request_that_cannot_be_resumed_is_a_503() -> None:
    """Sent again, the request starts from the beginning."""
    error = refused_by_engine("not_resumable", "why", "prompt", {})
    assert (error.status, error.code, error.param) == (503, "not_resumable", None)
