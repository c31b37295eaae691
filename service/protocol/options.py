"""The engine's settings: values only, each by its name in settings.py. The front sends them as its first frame.

The flags of `python -m service.engine "prompt"` are made of these fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

KvType = Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
FlashAttention = Literal["auto", "on", "off"]
SplitMode = Literal["none", "layer", "row"]
PrefixScope = Literal["tenant", "all", "off"]
Speculation = Literal["auto", "off"]


class Options(Struct, frozen=True, kw_only=True, tag=str.lower, forbid_unknown_fields=True):
    """How to load a model; None lets the engine choose. A description is the help of the flag."""

    model: Annotated[str, Meta(description="a GGUF file (default: the embedded starter)")]
    n_ctx: Annotated[int | None, Meta(description="KV cache size in cells (tokens), shared by all sequences")] = None
    n_seq: int = 32
    n_batch: int = 512
    n_threads: Annotated[int | None, Meta(description="default: the physical cores available to the process")] = None
    kv_type: KvType = "auto"
    buffer_types: Annotated[str, Meta(description="where the CPU keeps weights: docs/settings.md")] = "auto"
    flash_attention: FlashAttention = "auto"
    n_gpu_layers: Annotated[int, Meta(description="-1: as many as fit, where there is a GPU")] = -1
    split_mode: SplitMode = "layer"
    main_gpu: int = 0
    prefix_scope: Annotated[PrefixScope, Meta(description="which requests share the prefix cache")] = "tenant"
    speculation: Annotated[Speculation, Meta(description="speculative decoding where it is faster")] = "auto"
    step_ms: Annotated[float, Meta(description="target duration of a step with a prefill chunk")] = 200.0
    chat_template: Annotated[str, Meta(description="a template's name or a file (default: the model's own)")] = ""
