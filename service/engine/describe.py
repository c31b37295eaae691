"""The line that an operator reads after a start. Pure."""

from __future__ import annotations

from service.engine.host.kv_type import promise
from service.protocol.frames import Ready


def describe(ready: Ready) -> str:
    """Model, KV budget, threads, CPU code, weight buffers, offloaded layers, whether it is exact."""
    gb = 2**30
    cards = ", ".join(
        f"{d.description} ({d.n_bytes_free / gb:.1f} of {d.n_bytes_total / gb:.1f} GiB free)" for d in ready.gpus
    )
    why = f" ({ready.no_gpu})" if ready.no_gpu else ""
    offload = f"{ready.n_layers_offloaded} of {ready.n_layers} layers on {cards}" if cards else f"no GPU{why}"
    return (
        f"engine: {ready.model} ({ready.description}, {ready.model_bytes / 2**20:.1f} MiB) "
        f"loaded in {ready.load_s:.2f} s; "
        f"KV cache of {ready.n_ctx} cells ({ready.kv_type}, {ready.kv_bytes / 2**20:.1f} MiB) "
        f"for {ready.n_seq} sequences of at most {ready.n_ctx_seq}; "
        f"batch {ready.n_batch}, {ready.n_threads} threads, CPU code {ready.cpu}, "
        f"weights in {ready.weights} ({ready.buffer_types}), "
        f"flash attention {ready.flash_attention}, {offload}; {promise(ready.exact)}"
    )
