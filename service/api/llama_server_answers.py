"""The bodies and events of llama-server's own routes, as types: see answers.py."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class LlamaTimings(TypedDict):
    """Tokens, milliseconds and tokens a second; a rate that nothing was measured for is left out."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: NotRequired[float]
    prompt_per_second: NotRequired[float]
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: NotRequired[float]
    predicted_per_second: NotRequired[float]


class CompletionPiece(TypedDict):
    """An event of /completion before its end."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int
    stop: Literal[False]


class CompletionEnd(TypedDict):
    """The last event of /completion, or its answer in one piece."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int
    stop: Literal[True]
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: dict[str, Any]
    truncated: bool
    stop_type: Literal["eos", "limit", "none"]
    stopping_word: str
    timings: LlamaTimings


class DefaultSettings(TypedDict):
    params: dict[str, Any]
    n_ctx: int


class Modalities(TypedDict):
    vision: bool
    audio: bool


class Props(TypedDict):
    """What is loaded, and the defaults."""

    default_generation_settings: DefaultSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    endpoint_slots: bool
    endpoint_props: bool
    endpoint_metrics: bool
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool
