"""The only reader of the environment. Every setting is RILL_ and its name in capitals: docs/settings.md has the table.

Only app.py and __main__.py import Settings; others are passed values.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.words import plain

KvType = Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Names = Annotated[tuple[str, ...], NoDecode]
DEFAULT_PORTS = {"http": 80, "https": 443}
LEAST_BATCH = 32  # tokens: a prefill slice is no smaller


class SettingsError(Exception):
    """A value that can't be used; the message is one line and names the variable."""


class Settings(BaseSettings):
    """What an operator may set. Durations in seconds, sizes in bytes, counts in tokens or streams."""

    model_config = SettingsConfigDict(
        env_prefix="RILL_", env_ignore_empty=True, frozen=True, extra="ignore", allow_inf_nan=False
    )

    model: str = Field(
        default="",
        description="The model: a path to a GGUF file or `hf:owner/repo:file`; empty: the embedded starter.",
    )
    model_sha256: str = Field(
        default="",
        pattern="^([0-9a-fA-F]{64})?$",
        description="The model file's SHA-256, checked at start if given.",
    )
    model_names: Names = Field(
        default=(),
        description="Comma-separated model names that requests may ask for (else 404); empty: any name is accepted.",
    )
    chat_template: str = Field(
        default="",
        description="A chat template's name (the model's or llama.cpp's) or a Jinja file; empty: the model's default.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; a container wants 0.0.0.0.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    publish: str = Field(
        default="",
        pattern=r"^\S*$",
        description="What Docker publishes of a proxy in front (`8080`, `127.0.0.1:9000`): shown at start.",
    )
    n_ctx: int | None = Field(
        default=None,
        ge=64,
        description="KV budget in tokens, all streams together; unset: by the model and what memory is free.",
    )
    n_seq: int = Field(default=32, ge=1, le=256, description="Streams that run in parallel.")
    n_batch: int = Field(default=512, ge=LEAST_BATCH, le=65536, description="Most tokens of one decode call.")
    n_threads: int | None = Field(
        default=None, ge=1, le=1024, description="Threads that compute; unset: the cores that may really be used."
    )
    kv_type: KvType = Field(
        default="auto",
        description="Type of the KV cache; bf16 and q8_0 make CPU results exact; auto: bf16 if free, else f16.",
    )
    buffer_types: str = Field(
        default="auto",
        pattern=r"^(auto|default|\w+=\w+(,\w+=\w+)*)$",
        description="Where a CPU keeps weights, by type: auto: as fast as it can, default: llama.cpp's choice.",
    )
    flash_attention: Literal["auto", "on", "off"] = Field(default="auto", description="Flash attention.")
    n_gpu_layers: int = Field(default=-1, ge=-1, description="Layers on the GPU; -1: as many as fit, 0: none.")
    split_mode: Literal["none", "layer", "row"] = Field(
        default="layer", description="How GPUs share the model; CUDA has no row."
    )
    main_gpu: int = Field(default=0, ge=0, description="The GPU used alone (split_mode none) or for the rest.")
    prefix_scope: Literal["tenant", "all", "off"] = Field(
        default="tenant",
        description="Who shares the cells of prompts that begin alike: each API key's requests, all, or nobody.",
    )
    speculation: Literal["auto", "off"] = Field(
        default="auto", description="Decode guesses from the text so far beside each next token, where that pays."
    )
    draft_model: str = Field(
        default="",
        description="A small model of the same vocabulary, named like RILL_MODEL, whose guesses are decoded too.",
    )
    step_ms: float = Field(
        default=200.0, gt=0, description="How long running streams may wait for a slice of somebody's prompt."
    )
    max_waiting: int = Field(default=128, ge=0, le=100_000, description="Requests that may wait; one more gets 429.")
    queue_timeout_s: float = Field(default=60.0, gt=0, description="A request that has waited so long is given up.")
    heartbeat_s: float = Field(default=15.0, gt=0, description="Silence after which a stream sends a heartbeat.")
    write_timeout_s: float = Field(
        default=30.0, gt=0, description="A reader that takes nothing, or whose host is silent, for so long is let go."
    )
    resume_grace_s: float = Field(
        default=30.0, ge=0, description="How long a resumable stream runs on when its last reader has left."
    )
    stream_ttl_s: float = Field(default=300.0, ge=0, description="How long a finished stream can still be read.")
    drain_notice_s: float = Field(
        default=0.0,
        ge=0,
        description="How long after SIGTERM new streams are still taken: a proxy reads it in /readyz first.",
    )
    drain_s: float = Field(default=30.0, ge=0, description="How long running streams may take to finish after SIGTERM.")
    engine_timeout_s: float = Field(
        default=10.0, gt=0, description="An engine without a heartbeat for so long is killed and restarted."
    )
    step_timeout_s: float = Field(
        default=120.0, gt=0, description="An engine whose one step takes longer is killed and restarted."
    )
    load_timeout_s: float = Field(
        default=600.0, gt=0, description="A load without progress for so long, heartbeats or not, is given up."
    )
    max_body_bytes: int = Field(
        default=1 << 20, ge=1024, description="Largest request body; a 128k-token prompt is about half of the default."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Comma-separated keys, one of which /stream and /v1 then ask for as a Bearer token."
    )
    streams_need_key: bool = Field(
        default=False, description="Whoever reads a stream by its id needs its maker's key too, not the id alone."
    )
    allowed_origins: Names = Field(
        default=(), description="Comma-separated origins whose pages may call this service from a browser (CORS)."
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""), description="The Redis that replicas share their streams in, `redis://…`; empty: none."
    )
    store_path: str = Field(
        default="", description="A file in which the streams of a lone service outlive it; empty: memory only."
    )
    log_wait_ms: float = Field(
        default=250.0, ge=0, description="How long an event waits at most for the store to have it before it is sent."
    )
    store_prompts: bool = Field(
        default=True, description="Requests are in the store as long as their streams, so that these can go on."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")

    @field_validator("model_names", "allowed_origins", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts:  # an empty list of keys would open the service
            raise ValueError("it names nothing; leave it empty for none")
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
        raise SettingsError("RILL_STORE_PATH and RILL_REDIS_URL: streams are kept in one of them, set the other empty")
    return settings


def unknown() -> list[str]:
    """RILL_ variables that are not settings: a misspelt one must not be ignored silently."""
    known = {f"RILL_{name.upper()}" for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith("RILL_") and name not in known)
