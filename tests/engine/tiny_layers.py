"""The layers of tiny models: random weights for one architecture of each kind of memory that llama.cpp has.

llama keeps every token, gemma3 in half of its layers the last ones only, mamba a state and no token, jamba both. The
weights are scaled so that the next token depends on all before it, and a text does not end in a loop of one token.
Tensor names and shapes are those of llama.cpp's src/models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np

ARCHS = ["llama", "gemma3", "mamba", "jamba"]
N_EMBD, N_HEAD, N_FF = 128, 4, 256  # heads of 32 values: q8_0 KV caches are made of blocks of 32
N_WINDOW = 16  # tokens, the newest among them, that gemma3's windowed layers see
N_INNER, N_STATE, N_CONV, N_RANK = 2 * N_EMBD, 16, 4, 32  # mamba's: 2 is the only factor that llama.cpp takes


class Weights:
    """Tensors of random numbers, the same for the same seed."""

    def __init__(self, w: gguf.GGUFWriter, *, kind: str, seed: int) -> None:
        self._w, self._kind, self._random = w, kind, np.random.default_rng(seed)

    def matrix(self, name: str, rows: int, columns: int, scale: float, zeros: Sequence[int] = ()) -> None:
        """A product with it makes values of size 1 to values of size `scale`; the rows `zeros` make zeros."""
        data = self._random.standard_normal((rows, columns), np.float32) * np.float32(scale / columns**0.5)
        data[list(zeros)] = 0
        if self._kind == "q8_0":
            quantized = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            self._w.add_tensor(name, quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            self._w.add_tensor(name, data)

    def values(self, name: str, values: Any) -> None:
        """What is never quantized."""
        self._w.add_tensor(name, np.ascontiguousarray(values, np.float32))

    def normal(self, name: str, rows: int, columns: int, scale: float) -> None:
        """Random, and never quantized."""
        self.values(name, self._random.standard_normal((rows, columns), np.float32) * scale)

    def ones(self, name: str, n: int = N_EMBD, scale: float = 1) -> None:
        """A norm's weights."""
        self.values(name, np.full(n, scale))


def add(
    w: gguf.GGUFWriter,
    *,
    arch: str,
    n_vocab: int,
    n_layers: int,
    n_head_kv: int,
    kind: str,
    seed: int,
    never: Sequence[int],
) -> None:
    """Write the keys and tensors of `arch`; an unknown one gets llama's. `never`: tokens that are never likeliest."""
    weights = Weights(w, kind=kind, seed=seed)
    # gemma3 multiplies its embeddings by the root of their width, so they are smaller in the file.
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, 1 if arch == "gemma3" else N_EMBD**0.5)
    if arch == "mamba":
        _mamba(w, weights, n_layers)
    elif arch == "jamba":
        _jamba(w, weights, n_layers, n_head_kv)
    else:
        _attending(w, weights, n_layers, n_head_kv, windowed=arch == "gemma3")
    weights.ones("output_norm.weight")
    weights.matrix("output.weight", n_vocab, N_EMBD, 2.0, never)


def _attending(w: gguf.GGUFWriter, weights: Weights, n_layers: int, n_head_kv: int, *, windowed: bool) -> None:
    """llama, or gemma3 with a window in its even layers."""
    w.add_feed_forward_length(N_FF)
    w.add_head_count(N_HEAD)
    w.add_head_count_kv(n_head_kv)
    w.add_rope_dimension_count(N_EMBD // N_HEAD)
    if windowed:
        w.add_sliding_window(N_WINDOW)
        w.add_sliding_window_pattern([i % 2 == 0 for i in range(n_layers)])
    for i in range(n_layers):
        _attention(weights, i, n_head_kv)
        if windowed:
            weights.ones(f"blk.{i}.attn_q_norm.weight", N_EMBD // N_HEAD, 1.5)
            weights.ones(f"blk.{i}.attn_k_norm.weight", N_EMBD // N_HEAD, 1.5)
            weights.ones(f"blk.{i}.post_attention_norm.weight", scale=2)
        _feed_forward(weights, i)
        if windowed:
            weights.ones(f"blk.{i}.post_ffw_norm.weight")


def _mamba(w: gguf.GGUFWriter, weights: Weights, n_layers: int) -> None:
    """mamba: no attention, no feed-forward, a state of N_INNER x N_STATE values a layer."""
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    _state_keys(w)
    for i in range(n_layers):
        _state(weights, i)


def _jamba(w: gguf.GGUFWriter, weights: Weights, n_layers: int, n_head_kv: int) -> None:
    """jamba: even layers have mamba's state, odd ones attention without positions."""
    w.add_feed_forward_length(N_FF)
    w.add_head_count(N_HEAD)
    w.add_head_count_kv([0 if i % 2 == 0 else n_head_kv for i in range(n_layers)])
    _state_keys(w)
    for i in range(n_layers):
        if i % 2 == 0:
            _state(weights, i)
            weights.ones(f"blk.{i}.ssm_dt_norm.weight", N_RANK)
            weights.ones(f"blk.{i}.ssm_b_norm.weight", N_STATE)
            weights.ones(f"blk.{i}.ssm_c_norm.weight", N_STATE)
        else:
            _attention(weights, i, n_head_kv)
        _feed_forward(weights, i)


def _attention(weights: Weights, i: int, n_head_kv: int) -> None:
    n_kv = n_head_kv * N_EMBD // N_HEAD
    weights.ones(f"blk.{i}.attn_norm.weight")
    weights.matrix(f"blk.{i}.attn_q.weight", N_EMBD, N_EMBD, 1.5)
    weights.matrix(f"blk.{i}.attn_k.weight", n_kv, N_EMBD, 1.5)
    weights.matrix(f"blk.{i}.attn_v.weight", n_kv, N_EMBD, 2.0)
    weights.matrix(f"blk.{i}.attn_output.weight", N_EMBD, N_EMBD, 2.0)


def _feed_forward(weights: Weights, i: int) -> None:
    weights.ones(f"blk.{i}.ffn_norm.weight")
    weights.matrix(f"blk.{i}.ffn_gate.weight", N_FF, N_EMBD, 1.0)
    weights.matrix(f"blk.{i}.ffn_up.weight", N_FF, N_EMBD, 1.0)
    weights.matrix(f"blk.{i}.ffn_down.weight", N_EMBD, N_FF, 1.0)


def _state_keys(w: gguf.GGUFWriter) -> None:
    w.add_ssm_conv_kernel(N_CONV)
    w.add_ssm_inner_size(N_INNER)
    w.add_ssm_state_size(N_STATE)
    w.add_ssm_time_step_rank(N_RANK)


def _state(weights: Weights, i: int) -> None:
    """Decays from a thousandth to a third a token: the state still knows what was 1,000 tokens ago."""
    weights.ones(f"blk.{i}.attn_norm.weight")
    weights.matrix(f"blk.{i}.ssm_in.weight", 2 * N_INNER, N_EMBD, 1.5)
    weights.normal(f"blk.{i}.ssm_conv1d.weight", N_INNER, N_CONV, 0.7)
    weights.values(f"blk.{i}.ssm_conv1d.bias", np.zeros(N_INNER))
    weights.matrix(f"blk.{i}.ssm_x.weight", N_RANK + 2 * N_STATE, N_INNER, 1.5)
    weights.matrix(f"blk.{i}.ssm_dt.weight", N_INNER, N_RANK, 1.0)
    weights.values(f"blk.{i}.ssm_dt.bias", np.full(N_INNER, -1.0))
    weights.values(f"blk.{i}.ssm_a", np.tile(-np.geomspace(0.003, 1, N_STATE), (N_INNER, 1)))
    weights.values(f"blk.{i}.ssm_d", np.ones(N_INNER))
    weights.matrix(f"blk.{i}.ssm_out.weight", N_EMBD, N_INNER, 1.0)
