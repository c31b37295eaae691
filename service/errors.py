"""The exception tree: each class has its HTTP status, its code in OpenAI's error body, its outcome in metrics.

Foreign exceptions (pydantic's, orjson's, aiohttp's, the engine's refusals) are mapped to these where they enter.
"""

from __future__ import annotations

import re
from typing import Any


class RillError(Exception):
    """An error sent to the client; `message` is human-readable and never holds any of the prompt."""

    status = 500
    type = "server_error"
    code = "internal_error"
    outcome = "failed"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        counts: dict[str, int] | None = None,
    ) -> None:
        """counts: the message's numbers, for programs."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.counts = counts or {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error body."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error | self.counts}


class Invalid(RillError):
    """The request can't be understood or is out of bounds; retrying it is no use."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    outcome = "invalid"


class Unsupported(Invalid):
    code = "unsupported_parameter"


class ContextLengthExceeded(Invalid):
    """The counts are llama-server's: n_prompt_tokens, n_ctx."""

    code = "context_length_exceeded"


class Unauthorized(Invalid):
    status = 401
    code = "invalid_api_key"
    outcome = "unauthorized"


class Forbidden(Invalid):
    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(Invalid):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class StreamNotFound(NotFound):
    code = "stream_not_found"


class MethodNotAllowed(Invalid):
    status = 405
    code = "method_not_allowed"


class BodyTooSlow(Invalid):
    status = 408
    code = "request_timeout"


class KeyReused(Invalid):
    status = 409
    code = "key_reused"


class BodyTooLarge(Invalid):
    status = 413
    code = "request_too_large"


class UnsupportedEncoding(Invalid):
    status = 415
    code = "unsupported_encoding"


class ExpectationFailed(Invalid):
    status = 417
    code = "expectation_failed"


class Refused(RillError):
    """Not now: the same request may succeed after `retry_after_s`."""

    status = 503
    code = "unavailable"
    outcome = "unavailable"


class QueueFull(Refused):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    outcome = "queue_full"


class QueueTimeout(Refused):
    code = "queue_timeout"
    outcome = "queue_timeout"


class NotReady(Refused):
    code = "not_ready"


class ShuttingDown(Refused):
    code = "shutting_down"
    outcome = "shutting_down"


class EngineCrash(Refused):
    code = "engine_crash"
    outcome = "engine_crash"


class NotResumable(Refused):
    """The engine died, and this stream's sampler state was lost with it."""

    code = "not_resumable"
    outcome = "engine_crash"


class StreamLost(RillError):
    """The stream that a reader wants to resume is unknown here or has expired. Never starts another generation."""

    status = 410
    type = "invalid_request_error"
    code = "stream_lost"
    outcome = "lost"


class LogGap(RillError):
    """The reader has events that were never logged, and the regenerated ones differ."""

    code = "log_gap"


def as_dict(error: RillError) -> dict[str, Any]:
    """The error as plain values, for `from_dict` elsewhere."""
    names = ("status", "type", "code", "outcome", "message", "param", "retry_after_s", "counts")
    return {name: getattr(error, name) for name in names}


def from_dict(values: dict[str, Any]) -> RillError:
    """The error that as_dict described."""
    error = RillError(
        values["message"],
        param=values["param"],
        retry_after_s=values["retry_after_s"],
        counts=values.get("counts"),  # an older version's has none
    )
    for name in ("status", "type", "code", "outcome"):
        setattr(error, name, values[name])
    return error


_BY_ENGINE_CODE = {ContextLengthExceeded.code: ContextLengthExceeded, Unsupported.code: Unsupported}


def refused_by_engine(code: str, message: str, param: str, counts: dict[str, int]) -> RillError:
    """The error for a Rejected frame: a client's mistake, a 400, or a stream that can't be resumed."""
    if code == NotResumable.code:
        return NotResumable(message, retry_after_s=0.0)
    error = _BY_ENGINE_CODE.get(code, Invalid)(message, param=param, counts=counts)
    if re.fullmatch(r"[a-z_]{1,64}", code):
        error.code = code
    return error
