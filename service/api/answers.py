"""The bodies and events that the routes answer with, as types: what /openapi.json promises of them.

A field that an answer may lack is NotRequired; one that may be null says so. Durations are in seconds.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from pydantic import RootModel
from typing_extensions import TypedDict


class Problem(TypedDict):
    """What went wrong. The counts are those of a prompt that is too long."""

    message: str
    type: str
    param: str | None
    code: str
    n_prompt_tokens: NotRequired[int]
    n_ctx: NotRequired[int]


class Failure(TypedDict):
    """The body of every error, and the event of one that comes after the headers."""

    error: Problem


class CachedTokens(TypedDict):
    cached_tokens: int


class Usage(TypedDict):
    """Tokens; those of the prompt include the ones from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Timings(TypedDict):
    """Durations, from the request's arrival or between two of its stages."""

    queue_s: float
    prefill_s: float
    ttft_s: NotRequired[float]
    decode_s: float
    total_s: float
    tokens_per_s: NotRequired[float]


class StreamStatus(TypedDict):
    """Where a stream is before its text: its place in the queue, or the share of its prompt that is computed."""

    phase: Literal["queued", "thinking", "answering"]
    position: int
    eta_s: NotRequired[float]
    progress: NotRequired[float]
    n_done: NotRequired[int]
    n_prompt: NotRequired[int]


class StreamText(TypedDict):
    """A delta: the text that one or more tokens made deliverable."""

    text: str
    logprobs: NotRequired[list[dict[str, Any]]]


class StreamDone(TypedDict):
    """The end, with the seed that was used."""

    finish_reason: Literal["stop", "length", "cancelled"]
    usage: Usage
    timings: Timings
    seed: int


class StreamStarted(TypedDict):
    """A stream's id, which grants reading it, and where to read it."""

    id: str
    url: str


class TokenCounts(TypedDict):
    generated: int
    delivered: int
    wasted: int


class Receipt(TypedDict):
    """A stream's state and usage so far, final once it has ended."""

    id: str
    state: Literal["submitted", "queued", "thinking", "answering", "finished", "failed"]
    finish_reason: Literal["stop", "length", "cancelled"] | None
    error: Problem | None
    durable: bool
    exact: bool | None
    usage: Usage | None
    tokens: TokenCounts


class Receipts(TypedDict):
    """Of several answers to one request."""

    id: str
    choices: list[Receipt]


class AnyReceipt(RootModel[Receipt | Receipts]):
    """Of one stream, or of several answers."""


FinishReason = Literal["stop", "length"] | None


class _OfSeveral(TypedDict):
    """What each of several answers in one piece has; a single one's is the response's."""

    timings: NotRequired[Timings]
    seed: NotRequired[int]


class ChatMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None


class ChatChoice(_OfSeveral):
    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class _Envelope(TypedDict):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_Envelope):
    """The answer of /v1/chat/completions in one piece."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    timings: NotRequired[Timings]
    seed: NotRequired[int]


class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class ChatChunk(_Envelope):
    """An event of /v1/chat/completions. The last one has timings and seed; one with the usage follows it on request."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    timings: NotRequired[Timings]
    seed: NotRequired[int]


class TextChoice(_OfSeveral):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: FinishReason


class TextCompletion(_Envelope):
    """The answer of /v1/completions in one piece, or one of its events."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: NotRequired[Usage | None]
    timings: NotRequired[Timings]
    seed: NotRequired[int]


class ModelMeta(TypedDict):
    """What is loaded, as llama-server names it."""

    description: str
    n_params: int
    size: int
    n_vocab: int
    n_ctx: int
    n_ctx_seq: int
    has_chat_template: bool


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    meta: ModelMeta


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Healthy(TypedDict):
    healthy: Literal[True]


class Readiness(TypedDict):
    """Whether new streams should be sent here, and why not."""

    ready: bool
    reason: NotRequired[str]
    progress: NotRequired[float]
    message: NotRequired[str]


class Health(TypedDict):
    status: Literal["ok"]


class Version(TypedDict):
    version: str
