"""Random weights and rows, and ggml's products of repacked weights, called as llama.cpp calls them.
Needs only numpy, so that it runs inside the image, too."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
CONTEXT_BYTES = 1 << 20  # for ggml_init: the metadata of some tensors and a graph

Parts = NDArray[np.float64]  # (parts, columns, blocks, elements): a weight is the sum of its parts


class Pointer(ctypes.c_void_p):
    """A pointer result that stays one: ctypes converts plain c_void_p to int."""


class Library:
    """A CPU library of ggml: its backend, and the buffer type that repacks weights."""

    def __init__(self, path: Path) -> None:
        self.cpu = ctypes.CDLL(str(path))
        reg = self.call("ggml_backend_init" if hasattr(self.cpu, "ggml_backend_init") else "ggml_backend_cpu_reg")
        self.device = self.call("ggml_backend_reg_dev_get", reg, ctypes.c_size_t(0))
        self.backend = self.call("ggml_backend_dev_init", self.device, None)
        self.plain = self.call("ggml_backend_dev_buffer_type", self.device)
        self._offered(reg, b"ggml_backend_set_n_threads", None, ctypes.c_void_p, ctypes.c_int)(self.backend, 1)
        pointers = ctypes.POINTER(ctypes.c_void_p)
        extra = self._offered(reg, b"ggml_backend_dev_get_extra_bufts", pointers, ctypes.c_void_p)(self.device)
        found: dict[bytes, Pointer] = {}
        while buffer_type := extra[len(found)]:
            pointer = Pointer(buffer_type)
            found[self.call("ggml_backend_buft_name", pointer, result=ctypes.c_char_p)] = pointer
        self.repacked = found[b"CPU_REPACK"]

    def _offered(self, reg: Pointer, name: bytes, *types: Any) -> Any:
        """A function of the backend, by name; types: of its result and arguments."""
        return ctypes.CFUNCTYPE(*types)(self.call("ggml_backend_reg_get_proc_address", reg, name).value)

    def call(self, name: str, *arguments: Any, result: Any = Pointer) -> Any:
        """A function of ggml's, from the libraries that this one is linked with."""
        function = self.cpu[name]  # a new object: no other caller's types
        function.restype = result
        return function(*arguments)


class Tensors:
    """A ggml context, and the buffer with its tensors' data, freed with it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.context = library.call("ggml_init", _InitParams(CONTEXT_BYTES, None, True))
        self._buffer: Pointer | None = None

    def new(self, kind: int, n: int, rows: int) -> Pointer:
        made: Pointer = self._library.call(
            "ggml_new_tensor_2d", self.context, kind, ctypes.c_int64(n), ctypes.c_int64(rows)
        )
        return made

    def allocate(self, buffer_type: Pointer) -> None:
        self._buffer = self._library.call("ggml_backend_alloc_ctx_tensors_from_buft", self.context, buffer_type)

    def fill(self, tensor: Pointer, data: NDArray[Any]) -> None:
        size = ctypes.c_size_t(data.nbytes)
        self._library.call("ggml_backend_tensor_set", tensor, data.tobytes(), ctypes.c_size_t(0), size, result=None)

    def __del__(self) -> None:
        self._library.call("ggml_backend_buffer_free", self._buffer, result=None)
        self._library.call("ggml_free", self.context, result=None)


class _InitParams(ctypes.Structure):
    """ggml_init_params (ggml.h)."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class Product:
    """Random weights, repacked, and rows, and their product."""

    def __init__(self, library: Library, kind: str, *, n_blocks: int, n_columns: int, n_rows: int) -> None:
        self._library, self.n_columns = library, n_columns
        number, n, make = KINDS[kind]
        random = np.random.default_rng(0)
        self.parts, blocks = make(random, (n_columns, n_blocks))
        # Values that ggml quantizes without loss: integers, the largest of them -127, times a power of two.
        self.rows = random.integers(-127, 128, (n_rows, n_blocks, n)).astype(np.float32)
        self.rows[..., 5] = -127
        self.rows *= 2.0 ** random.integers(-6, 2, (n_rows, n_blocks, 1))
        self._tensors = Tensors(library)
        self._weights = self._tensors.new(number, n * n_blocks, n_columns)
        self._tensors.allocate(library.repacked)
        if self.is_possible:
            self._tensors.fill(self._weights, blocks)

    @cached_property
    def is_possible(self) -> bool:
        """Whether such weights can be repacked: there is a product for this number of columns."""
        tensors = Tensors(self._library)
        product = self._mul_mat(tensors, tensors.new(F32, self.rows[0].size, 1))
        supports = "ggml_backend_dev_supports_op"
        return bool(self._library.call(supports, self._library.device, product, result=ctypes.c_bool))

    @cached_property
    def expected(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """In double precision: the product, and the sum of the terms' absolute values."""
        terms = np.einsum("pcbk,rbk->rcbp", self.parts, self.rows.astype(float))
        return terms.sum((-1, -2)), np.abs(terms).sum((-1, -2))

    @cached_property
    def alone(self) -> NDArray[np.float32]:
        """Each row multiplied separately."""
        return np.concatenate([self.multiply(self.rows[i : i + 1]) for i in range(len(self.rows))])

    def is_right(self, n: int) -> bool:
        """Whether the first n rows, together and separately, give the product within floating-point error."""
        expected, size = (each[:n] for each in self.expected)
        together = self.multiply(self.rows[:n])
        return all(bool((abs(got - expected) <= 1e-6 * size).all()) for got in (together, self.alone[:n]))

    def is_alike(self, n: int) -> bool:
        """Whether each of the first n rows gives bit for bit the same together with the others as separately."""
        return bool((self.multiply(self.rows[:n]) == self.alone[:n]).all())

    def multiply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(rows, blocks, elements) -> (rows, columns)."""
        call, tensors = self._library.call, Tensors(self._library)
        given = tensors.new(F32, rows[0].size, len(rows))
        product = self._mul_mat(tensors, given)
        graph = call("ggml_new_graph", tensors.context)
        call("ggml_build_forward_expand", graph, product, result=None)
        tensors.allocate(self._library.plain)
        tensors.fill(given, rows)
        call("ggml_backend_graph_compute", self._library.backend, graph, result=ctypes.c_int)
        out = np.full((len(rows), self.n_columns), np.nan, np.float32)
        data, size = ctypes.c_void_p(out.ctypes.data), ctypes.c_size_t(out.nbytes)
        call("ggml_backend_tensor_get", product, data, ctypes.c_size_t(0), size, result=None)
        return out

    def _mul_mat(self, tensors: Tensors, rows: Pointer) -> Pointer:
        made: Pointer = self._library.call("ggml_mul_mat", tensors.context, self._weights, rows)
        return made


def make_q4_0(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Parts, NDArray[Any]]:
    return _nibbles(random, shape, np.arange(-8, 8))


def make_iq4_nl(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Parts, NDArray[Any]]:
    return _nibbles(random, shape, np.array(IQ4_NL))


def _nibbles(random: np.random.Generator, shape: tuple[int, int], values: NDArray[Any]) -> tuple[Parts, NDArray[Any]]:
    blocks = np.zeros(shape, [("d", np.float16), ("qs", np.uint8, 16)])
    nibbles = random.integers(0, 16, (*shape, 32), np.uint8)
    blocks["d"] = _scales(random, shape)
    blocks["qs"] = nibbles[..., :16] | nibbles[..., 16:] << 4
    return (values[nibbles] * _wide(blocks["d"]))[None], blocks


def make_q8_0(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Parts, NDArray[Any]]:
    blocks = np.zeros(shape, [("d", np.float16), ("qs", np.int8, 32)])
    blocks["d"] = _scales(random, shape)
    blocks["qs"] = random.integers(-128, 128, (*shape, 32), np.int8)
    return (blocks["qs"] * _wide(blocks["d"]))[None], blocks


def make_q4_k(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Parts, NDArray[Any]]:
    """Scales and minima of every 32 elements have six bits each, in twelve bytes."""
    fields = [("d", np.float16), ("dmin", np.float16), ("scales", np.uint8, 12), ("qs", np.uint8, (4, 32))]
    blocks = np.zeros(shape, fields)
    blocks["d"], blocks["dmin"] = _scales(random, shape), _scales(random, shape)
    s, m = random.integers(0, 64, (2, *shape, 8), np.uint8)
    words = [s[..., :4] | s[..., 4:] >> 4 << 6, m[..., :4] | m[..., 4:] >> 4 << 6, s[..., 4:] & 15 | m[..., 4:] << 4]
    blocks["scales"] = np.concatenate(words, -1)
    nibbles = random.integers(0, 16, (*shape, 4, 2, 32), np.uint8)
    blocks["qs"] = nibbles[..., 0, :] | nibbles[..., 1, :] << 4
    scales, leasts = (np.repeat(each, 32, -1) for each in (s, m))
    taken = -_wide(blocks["dmin"]) * leasts
    return np.array([nibbles.reshape(*shape, 256) * _wide(blocks["d"]) * scales, taken]), blocks


def make_q6_k(random: np.random.Generator, shape: tuple[int, int]) -> tuple[Parts, NDArray[Any]]:
    """Of 128 elements the lower four bits are in 64 bytes, the upper two in 32."""
    fields = [("ql", np.uint8, (2, 2, 32)), ("qh", np.uint8, (2, 32)), ("scales", np.int8, 16), ("d", np.float16)]
    blocks = np.zeros(shape, fields)
    blocks["d"] = _scales(random, shape)
    blocks["scales"] = random.integers(-128, 128, (*shape, 16), np.int8)
    q = random.integers(0, 64, (*shape, 2, 4, 32), np.uint8)
    blocks["ql"] = q[..., :2, :] & 15 | q[..., 2:, :] << 4
    blocks["qh"] = sum(q[..., k, :] >> 4 << 2 * k for k in range(4))
    scales = np.repeat(blocks["scales"], 16, -1)
    return ((q.reshape(*shape, 256) - 32.0) * _wide(blocks["d"]) * scales)[None], blocks


def _scales(random: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float16]:
    return random.uniform(-0.1, 0.1, shape).astype(np.float16)


def _wide(scales: NDArray[np.float16]) -> NDArray[np.float64]:
    return scales.astype(float)[..., None]


F32 = 0  # ggml_type, as in the table: its number, a block's elements, and the function that makes a file's blocks
KINDS: dict[str, tuple[int, int, Callable[[np.random.Generator, tuple[int, int]], tuple[Parts, NDArray[Any]]]]] = {
    "q4_0": (2, 32, make_q4_0),
    "q8_0": (8, 32, make_q8_0),
    "q4_K": (12, 256, make_q4_k),
    "q6_K": (14, 256, make_q6_k),
    "iq4_nl": (20, 32, make_iq4_nl),
}
