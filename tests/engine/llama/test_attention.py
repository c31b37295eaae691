"""A CPU's attention over bf16 cells in our build (deploy/patches), called as llama.cpp calls it."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as lib
import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.host.kv_type import HEADS
from service.engine.llama import model
from tests.engine.llama.test_kernels import LIBRARY as CPU

N_HEADS, N_HEADS_KV = 4, 2
BF16 = 30  # ggml.h
LIBRARY = ctypes.CDLL(model.LIBRARY._name)  # a separate handle, whose functions have no other declarations
Array = NDArray[Any]


class Params(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def call(library: ctypes.CDLL, name: str, *arguments: Any, result: Any = ctypes.c_void_p) -> Any:
    function = getattr(library, name)
    function.restype = result
    return function(*arguments)


def as_bf16(values: Array) -> NDArray[np.uint16]:
    """Truncated; the values are chosen so that nothing is lost."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def rounded(values: Array) -> Array:
    return (as_bf16(values).astype(np.uint32) << 16).view(np.float32)


def attention(q: Array, k: Array, v: Array, mask: Array, *, softcap: float = 0.0) -> Array:
    """ggml_flash_attn_ext: q is [head, row, value], k and v are [head, cell, value], mask is [row, cell]."""
    n_bytes = 4 * (q.nbytes + k.nbytes + v.nbytes + mask.nbytes) + (1 << 22)
    context = ctypes.c_void_p(call(LIBRARY, "ggml_init", Params(n_bytes, None, False)))
    tensors = []
    for kind, array in (
        (lib.GGML_TYPE_F32, q.astype(np.float32)),
        (BF16, as_bf16(k)),
        (BF16, as_bf16(v)),
        (lib.GGML_TYPE_F16, mask.astype(np.float16)[None]),
    ):
        shape = [ctypes.c_int64(n) for n in reversed(array.shape)]
        tensor = ctypes.c_void_p(call(LIBRARY, "ggml_new_tensor_3d", context, kind, *shape))
        ctypes.memmove(call(LIBRARY, "ggml_get_data", tensor), np.ascontiguousarray(array).ctypes.data, array.nbytes)
        tensors.append(tensor)
    numbers = [ctypes.c_float(x) for x in (1 / np.sqrt(q.shape[2]), 0.0, softcap)]
    result = ctypes.c_void_p(call(LIBRARY, "ggml_flash_attn_ext", context, *tensors, *numbers))
    graph = ctypes.c_void_p(call(LIBRARY, "ggml_new_graph", context))
    call(LIBRARY, "ggml_build_forward_expand", graph, result, result=None)
    assert call(CPU.cpu, "ggml_graph_compute_with_ctx", context, graph, 2, result=ctypes.c_int) == 0
    n_heads, n_rows, n = q.shape
    data = ctypes.cast(call(LIBRARY, "ggml_get_data", result), ctypes.POINTER(ctypes.c_float))
    found = np.ctypeslib.as_array(data, (n_rows, n_heads, n)).transpose(1, 0, 2).copy()
    call(LIBRARY, "ggml_free", context, result=None)
    return found


def expected(q: Array, k: Array, v: Array, mask: Array, softcap: float) -> Array:
    """In double precision."""
    keys, values = (np.repeat(x, N_HEADS // N_HEADS_KV, 0).astype(float) for x in (k, v))
    scores = np.einsum("hrd,hcd->hrc", q.astype(float), keys) / np.sqrt(q.shape[2])
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores + mask - (scores + mask).max(-1, keepdims=True))
    sums: Array = np.einsum("hrc,hcd->hrd", weights, values) / weights.sum(-1)[..., None]
    return sums


def made(head: int, n_rows: int, n_cells: int) -> tuple[Array, Array, Array, Array]:
    """Rows that see the cells up to their own, the last row all of them."""
    random = np.random.default_rng(head)
    q, k, v = (
        rounded(random.standard_normal((n, m, head)))
        for n, m in ((N_HEADS, n_rows), (N_HEADS_KV, n_cells), (N_HEADS_KV, n_cells))
    )
    sees = np.arange(n_cells) <= np.arange(n_rows)[:, None] + n_cells - n_rows
    return q, k, v, np.where(sees, 0, -np.inf)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("head", [*HEADS, 80])
def test_attention_equals_double_precision(head: int, softcap: float) -> None:
    """For numbers of cells that fill blocks and that do not, the result equals the exact computation."""
    for n_cells in (1, 15, 64, 65, 200):
        q, k, v, mask = made(head, min(n_cells, 7), n_cells)
        found = attention(q, k, v, mask, softcap=softcap)
        assert np.abs(found - expected(q, k, v, mask, softcap)).max() < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_a_row_is_the_same_in_any_batch(head: int) -> None:
    """Bit for bit, alone and with others, and with cells that it does not see before, between and behind its own."""
    q, k, v, mask = made(head, 60, 200)
    together = attention(q, k, v, mask)
    for row in (0, 31, 59):
        one = slice(row, row + 1)
        assert np.array_equal(attention(q[:, one], k, v, mask[one]), together[:, one])
    places = np.sort(np.random.default_rng(1).permutation(700)[:200])
    apart = np.full((60, 700), -np.inf)
    apart[:, places] = mask
    wide_k, wide_v = np.full((2, N_HEADS_KV, 700, head), 3.0, np.float32)
    wide_k[:, places], wide_v[:, places] = k, v
    assert np.array_equal(attention(q, wide_k, wide_v, apart), together)
