"""The only reader of the environment. Every setting is RILL_ and its name in capitals: docs/settings.md has the table.

Only app.py and __main__.py import Settings; others are passed values.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.protocol.options import FlashAttention, KvType, PrefixScope, Speculation, SplitMode
from service.words import plain

Names = Annotated[tuple[str, ...], NoDecode]
REMOVED = {"RILL_DRAFT_MODEL": "draft tokens are proposed from the text so far only"}  # once settings, and why not now
DEFAULT_PORTS = {"http": 80, "https": 443}
LEAST_BATCH = 32  # tokens: a prefill chunk is no smaller


class SettingsError(Exception):
    """A value that can't be used; the message is one line and names the variable."""


class Settings(BaseSettings):
    """What an operator may set. Durations in seconds, sizes in bytes, counts in tokens or streams."""

    model_config = SettingsConfigDict(
        env_prefix="RILL_", env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    model: str = Field(
        default="",
        description="The model: a path to a GGUF file or `hf:owner/repo:file`; empty: the embedded starter model.",
    )
    model_sha256: str = Field(
        default="",
        pattern="^([0-9a-fA-F]{64})?$",
        description="Expected SHA-256 of the model file, verified at start if set.",
    )
    model_names: Names = Field(
        default=(),
        description=(
            "Comma-separated model names that requests may use (any other gets 404); empty: any name is accepted."
        ),
    )
    chat_template: str = Field(
        default="",
        description=(
            "The chat template: a name (the model's or llama.cpp's) or a Jinja file; empty: the model's default."
        ),
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; a container needs 0.0.0.0.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0: any free port.")
    publish: str = Field(
        default="",
        pattern=r"^\S*$",
        description=(
            "Address at which Docker publishes the proxy in front (`8080`, `127.0.0.1:9000`); printed at start."
        ),
    )
    n_ctx: int | None = Field(
        default=None,
        ge=64,
        description=(
            "KV cache size in cells (tokens), shared by all streams; unset: derived from the model and free memory."
        ),
    )
    n_seq: int = Field(default=32, ge=1, le=256, description="Maximum number of streams that run in parallel.")
    n_batch: int = Field(
        default=512, ge=LEAST_BATCH, le=65536, description="Maximum number of tokens in one decode call."
    )
    n_threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Number of compute threads; unset: the number of physical cores available to the process.",
    )
    kv_type: KvType = Field(
        default="auto",
        description=(
            "KV cache data type; bf16 and q8_0 make CPU results exact; auto: bf16 where it costs no speed, else f16."
        ),
    )
    buffer_types: str = Field(
        default="auto",
        pattern=r"^(auto|default|\w+=\w+(,\w+=\w+)*)$",
        description="CPU buffer type for each weight type; auto: the fastest as measured, default: llama.cpp's choice.",
    )
    flash_attention: FlashAttention = Field(default="auto", description="Whether flash attention is used.")
    n_gpu_layers: int = Field(
        default=-1, ge=-1, description="Number of model layers offloaded to the GPU; -1: as many as fit, 0: none."
    )
    split_mode: SplitMode = Field(
        default="layer", description="How the model is split across GPUs; CUDA does not support row."
    )
    main_gpu: int = Field(
        default=0, ge=0, description="Index of the GPU used alone (split_mode none) or for what is not split."
    )
    prefix_scope: PrefixScope = Field(
        default="tenant",
        description="Which requests share the prefix cache: those with the same API key, all, or none.",
    )
    speculation: Speculation = Field(
        default="auto",
        description=(
            "Speculative decoding where it is faster, with draft tokens proposed from the text so far; off: never."
        ),
    )
    step_ms: float = Field(
        default=200.0,
        gt=0,
        description="Target duration of a step with a prefill chunk, which running streams have to wait for.",
    )
    max_waiting: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Maximum number of requests waiting in the queue; further requests get 429.",
    )
    queue_timeout_s: float = Field(
        default=60.0, gt=0, description="Maximum time that a request may wait in the queue before it fails."
    )
    heartbeat_s: float = Field(
        default=15.0, gt=0, description="Time without events after which a stream sends a heartbeat."
    )
    write_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="A reader that accepts no data, or has an unresponsive host, for this long is disconnected.",
    )
    resume_grace_s: float = Field(
        default=30.0,
        ge=0,
        description="How long a resumable stream keeps running after its last reader has disconnected.",
    )
    stream_ttl_s: float = Field(default=300.0, ge=0, description="How long a finished stream can still be read.")
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        description="How long new streams are still accepted after SIGTERM, so that a proxy first sees it in /readyz.",
    )
    drain_s: float = Field(default=30.0, ge=0, description="How long running streams may take to finish after SIGTERM.")
    engine_timeout_s: float = Field(
        default=10.0, gt=0, description="An engine that sends no heartbeat for this long is killed and restarted."
    )
    step_timeout_s: float = Field(
        default=120.0, gt=0, description="An engine is killed and restarted if a single step takes longer than this."
    )
    load_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Loading is aborted if it makes no progress for this long, even if the engine sends heartbeats.",
    )
    max_body_bytes: int = Field(
        default=1 << 20, ge=1024, description="Largest request body; a 128k-token prompt is about half of the default."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Comma-separated API keys; if set, /stream and /v1 require one of them as a Bearer token.",
    )
    streams_need_key: bool = Field(
        default=False, description="Reading a stream requires its id and the API key that created it, not the id alone."
    )
    allowed_origins: Names = Field(
        default=(), description="Comma-separated origins from which browser pages may call this service (CORS)."
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""), description="The Redis in which replicas share their streams, `redis://…`; empty: none."
    )
    store_path: str = Field(
        default="",
        description="A file that preserves the streams of a single replica across its restarts; empty: memory only.",
    )
    log_wait_ms: float = Field(
        default=250.0,
        ge=0,
        description="Maximum time that an event waits for the store's acknowledgement before it is sent.",
    )
    store_prompts: bool = Field(
        default=True,
        description="Requests are stored as long as their streams, so that interrupted streams can be continued.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum level of the log messages that are written."
    )

    @field_validator("model_names", "allowed_origins", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts:  # an empty list of keys would open the service
            raise ValueError("the list has no entries; leave it empty for none")
        return parts

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(origin, value))


def origin(text: str) -> str:
    """An origin as browsers write it (RFC 6454, 6.2): in lower case, without the scheme's port. Raises ValueError."""
    parts = urlsplit(text.rstrip("/"))
    is_one = parts.scheme and parts.netloc and not (parts.path or parts.query or parts.fragment or parts.username)
    if not is_one or "*" in text:
        raise ValueError("origins are like https://chat.example or http://localhost:3000, each in full")
    scheme, port = parts.scheme.lower(), parts.port
    host = parts.netloc.lower().rpartition(":")[0] if port is not None else parts.netloc.lower().rstrip(":")
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def read() -> Settings:
    """The settings of this process. Raises SettingsError."""
    try:
        settings = Settings()
    except ValidationError as e:
        error = e.errors(include_input=False, include_url=False)[0]
        raise SettingsError(f"RILL_{str(error['loc'][0]).upper()}: {plain(error)}") from None
    if settings.store_path and settings.redis_url.get_secret_value():
        raise SettingsError(
            "RILL_STORE_PATH and RILL_REDIS_URL: only one store can be used; set the other one to empty"
        )
    return settings


def unknown() -> list[str]:
    """RILL_ variables that never were settings: a misspelt one must not be ignored silently."""
    known = {f"RILL_{name.upper()}" for name in Settings.model_fields} | set(REMOVED)
    return sorted(name for name in os.environ if name.startswith("RILL_") and name not in known)


def removed() -> list[str]:
    """A sentence about each variable that is set and once was a setting."""
    return [f"{name} is no longer a setting: {why}" for name, why in REMOVED.items() if os.environ.get(name)]
