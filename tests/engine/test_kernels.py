"""ggml's products of Q4_0 and IQ4_NL weights as our build has them (deploy/engine.patch), called as ggml calls them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

LIBRARY = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu.*"))))
LIBRARY.ggml_cpu_init()  # its table of half floats
N = 32  # elements of a block, which have one scale
VALUES = {  # of a nibble; Q4_0's is a signed one once ggml has put eight columns together
    "q4_0": [0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1],
    "iq4_nl": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
}
WEIGHTS = np.dtype([("d", np.float16, 8), ("qs", np.uint8, 128)])  # block_q4_0x8: eight columns
ROW = np.dtype([("d", np.float16), ("qs", np.int8, N)])  # block_q8_0
ROWS = np.dtype([("d", np.float16, 4), ("qs", np.int8, 128)])  # block_q8_0x4: four rows


class Product:
    """Random weights and rows, and what each of ggml's ways to multiply them gives."""

    def __init__(self, kind: str, *, n_blocks: int, n_columns: int, n_rows: int) -> None:
        self.kind, self.n_blocks, self.n_columns = kind, n_blocks, n_columns
        random = np.random.default_rng(0)
        self.nibbles = random.integers(0, 16, (n_columns, n_blocks, N), np.uint8)
        self.scales = random.uniform(-0.1, 0.1, (n_columns, n_blocks)).astype(np.float16)
        self.rows = random.integers(-127, 128, (n_rows, n_blocks, N), np.int8)
        self.row_scales = random.uniform(0, 0.1, (n_rows, n_blocks)).astype(np.float16)
        self.weights = self._pack()

    def expected(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """In double precision: the product, and the sum of what is added up, without signs."""
        sums = np.einsum("cbk,rbk->rcb", np.array(VALUES[self.kind])[self.nibbles], self.rows.astype(int))
        terms = sums * self.scales.astype(float) * self.row_scales[:, None].astype(float)
        return terms.sum(-1), np.abs(terms).sum(-1)

    def gemm(self, n: int) -> NDArray[np.float32]:
        """The first n rows at once, n a multiple of four."""
        made = np.zeros((n // 4, self.n_blocks), ROWS)
        made["d"] = self.row_scales[:n].reshape(-1, 4, self.n_blocks).swapaxes(1, 2)
        eights = self.rows[:n].reshape(-1, 4, self.n_blocks, 4, 8)
        made["qs"] = eights.transpose(0, 2, 3, 1, 4).reshape(*made.shape, 128)
        return self._call("gemm", made, n)

    def gemv(self, i: int) -> NDArray[np.float32]:
        """One row by itself."""
        made = np.zeros(self.n_blocks, ROW)
        made["d"], made["qs"] = self.row_scales[i], self.rows[i]
        (out,) = self._call("gemv", made, 1)
        return np.asarray(out)

    def _pack(self) -> NDArray[Any]:
        made = np.zeros((self.n_columns // 8, self.n_blocks), WEIGHTS)
        made["d"] = self.scales.reshape(-1, 8, self.n_blocks).swapaxes(1, 2)
        bytes_ = self.nibbles[..., :16] | self.nibbles[..., 16:] << 4
        eights = bytes_.reshape(-1, 8, self.n_blocks, 2, 8)
        made["qs"] = eights.transpose(0, 2, 3, 1, 4).reshape(*made.shape, 128)
        return made

    def _call(self, name: str, rows: NDArray[Any], n: int) -> NDArray[np.float32]:
        out = np.full((n, self.n_columns), np.nan, np.float32)
        function = getattr(LIBRARY, f"ggml_{name}_{self.kind}_8x8_q8_0")
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (out, self.weights, rows)]
        size = ctypes.c_size_t(self.n_columns)
        function(N * self.n_blocks, pointers[0], size, *pointers[1:], n, self.n_columns)
        return out


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("n_columns", [8, 16, 24, 64])  # sixteen at a time, and eight that are left
@pytest.mark.parametrize("n_blocks", [1, 2, 28])
def test_as_computed_exactly(kind: str, n_columns: int, n_blocks: int) -> None:
    """One row and every number of rows that is multiplied at once give the product, as nearly as floats can."""
    product = Product(kind, n_blocks=n_blocks, n_columns=n_columns, n_rows=28)
    expected, size = product.expected()
    for n in (4, 8, 12, 16, 28):
        assert (abs(product.gemm(n) - expected[:n]) <= 1e-6 * size[:n]).all()
    assert (abs(product.gemv(3) - expected[3]) <= 1e-6 * size[3]).all()


@pytest.mark.parametrize("kind", VALUES)
def test_a_row_does_not_depend_on_others(kind: str) -> None:
    """To the last bit: a stream's tokens must not change with how many others decode beside it."""
    product = Product(kind, n_blocks=28, n_columns=40, n_rows=32)
    alone = np.array([product.gemv(i) for i in range(32)])
    for n in range(4, 33, 4):
        assert (product.gemm(n) == alone[:n]).all()
