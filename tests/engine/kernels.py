"""Random weights and rows, and what ggml's products of Q4_0, IQ4_NL and Q4_K weights make of them, called as ggml calls
them. Needs numpy alone, so that it runs inside the image, too."""

from __future__ import annotations

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES = {  # of a nibble; Q4_0's is a signed one once ggml has put eight columns together
    "q4_0": [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1],
    "iq4_nl": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
    "q4_K": list(range(16)),
}
SIZES = {"q8_0": (32, 34), "q8_K": (256, 292)}  # of a row's block: elements, bytes


def load(path: Path) -> ctypes.CDLL:
    """One CPU library of ggml."""
    library = ctypes.CDLL(str(path))
    library.ggml_cpu_init()  # its table of half floats
    return library


class Product:
    """Random weights and rows, and what each of ggml's ways to multiply them gives."""

    def __init__(self, library: ctypes.CDLL, kind: str, *, n_blocks: int, n_columns: int, n_rows: int) -> None:
        self._library = library
        self.kind, self.row_kind, self.n_columns = kind, "q8_K" if kind == "q4_K" else "q8_0", n_columns
        n, self.n_bytes = SIZES[self.row_kind]
        random = np.random.default_rng(0)
        shape = n_columns, n_blocks
        nibbles = random.integers(0, 16, (*shape, n), np.uint8)
        scales, leasts = random.uniform(-0.1, 0.1, (2, *shape)).astype(np.float16)
        small = random.integers(0, 64, (2, *shape, n // 32), np.uint8)
        values = np.array(VALUES[kind])[nibbles] * scales.astype(float)[..., None]
        if kind == "q4_K":
            times, taken = np.repeat(small, 32, -1)
            self.parts = np.array([values * times, -leasts.astype(float)[..., None] * taken])
            self.weights = pack_q4_k(nibbles, scales, leasts, small)
        else:
            self.parts = values[None]
            self.weights = pack_q4(nibbles, scales)
        # What ggml makes bytes of without a loss: whole numbers, the largest of them -127, times a power of two.
        self.rows = random.integers(-127, 128, (n_rows, n_blocks, n)).astype(np.float32)
        self.rows[..., 5] = -127
        self.rows *= 2.0 ** random.integers(-6, 2, (n_rows, n_blocks, 1))

    @cached_property
    def expected(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """In double precision: the product, and the sum of what is added up, without signs."""
        terms = np.einsum("pcbk,rbk->rcbp", self.parts, self.rows.astype(float))
        return terms.sum((-1, -2)), np.abs(terms).sum((-1, -2))

    @cached_property
    def alone(self) -> NDArray[np.float32]:
        """Every row by itself."""
        return np.array([self.gemv(i) for i in range(len(self.rows))])

    def is_right(self, n: int) -> bool:
        """Whether the first n rows at once, and each by itself, give the product, as nearly as floats can."""
        expected, size = (each[:n] for each in self.expected)
        return all(bool((abs(got - expected) <= 1e-6 * size).all()) for got in (self.gemm(n), self.alone[:n]))

    def is_alike(self, n: int) -> bool:
        """Whether each of the first n rows comes to the same with the others as by itself, to the last bit."""
        return bool((self.gemm(n) == self.alone[:n]).all())

    def gemm(self, n: int) -> NDArray[np.float32]:
        """The first n rows at once, n a multiple of four."""
        quantize = getattr(self._library, f"ggml_quantize_mat_{self.row_kind}_4x8")
        fours = [self._quantized(quantize, self.rows[i : i + 4]) for i in range(0, n, 4)]
        return self._call("gemm", b"".join(fours), n)

    def gemv(self, i: int) -> NDArray[np.float32]:
        """One row by itself."""
        quantize = getattr(self._library, f"quantize_row_{self.row_kind}")
        (out,) = self._call("gemv", self._quantized(quantize, self.rows[i]), 1)
        return np.asarray(out)

    def _quantized(self, quantize: Any, rows: NDArray[np.float32]) -> bytes:
        n_blocks, n = rows.shape[-2:]
        out = ctypes.create_string_buffer(rows.size // n * self.n_bytes)
        quantize(ctypes.c_void_p(rows.ctypes.data), out, ctypes.c_int64(n_blocks * n))
        return out.raw

    def _call(self, name: str, rows: bytes, n: int) -> NDArray[np.float32]:
        out = np.full((n, self.n_columns), np.nan, np.float32)
        function = getattr(self._library, f"ggml_{name}_{self.kind}_8x8_{self.row_kind}")
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (out, self.weights)]
        n_row = self.rows[0].size
        function(n_row, pointers[0], ctypes.c_size_t(self.n_columns), pointers[1], rows, n, self.n_columns)
        return out


def eight(array: NDArray[Any], n: int = 1) -> NDArray[Any]:
    """(columns, blocks, elements) -> (eights of columns, blocks, ...): n elements of each of the eight in turn."""
    n_columns, n_blocks = array.shape[:2]
    chunks = array.reshape(n_columns // 8, 8, n_blocks, -1, n)
    return chunks.transpose(0, 2, 3, 1, 4).reshape(n_columns // 8, n_blocks, -1)


def pack_q4(nibbles: NDArray[np.uint8], scales: NDArray[np.float16]) -> NDArray[Any]:
    """block_q4_0x8 and block_iq4_nlx8."""
    made = np.zeros((len(scales) // 8, scales.shape[1]), [("d", np.float16, 8), ("qs", np.uint8, 128)])
    made["d"] = eight(scales)
    made["qs"] = eight(nibbles[..., :16] | nibbles[..., 16:] << 4, 8)
    return made


def pack_q4_k(
    nibbles: NDArray[np.uint8], scales: NDArray[np.float16], leasts: NDArray[np.float16], small: NDArray[np.uint8]
) -> NDArray[Any]:
    """block_q4_Kx8; small: scales and leasts of every 32 elements, six bits each, in twelve bytes for eight columns."""
    fields = [("d", np.float16, 8), ("dmin", np.float16, 8), ("scales", np.uint8, (8, 12)), ("qs", np.uint8, 1024)]
    made = np.zeros((len(scales) // 8, scales.shape[1]), fields)
    made["d"], made["dmin"] = eight(scales), eight(leasts)
    s, m = (eight(each).reshape(*made.shape, 8, 8) for each in small)
    words = [s[..., :4] | s[..., 4:] >> 4 << 6, m[..., :4] | m[..., 4:] >> 4 << 6, s[..., 4:] & 15 | m[..., 4:] << 4]
    made["scales"] = np.concatenate(words, -1)
    halves = nibbles.reshape(*scales.shape, 4, 2, 32)
    made["qs"] = eight(halves[..., 0, :] | halves[..., 1, :] << 4, 8)
    return made
