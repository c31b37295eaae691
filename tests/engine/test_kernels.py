"""ggml's products of Q4_0, IQ4_NL and Q4_K weights as our build has them (deploy/patches)."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

from tests.engine.kernels import VALUES, Product, load

LIBRARY = load(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu.*")))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("n_columns", [8, 16, 24, 64])  # sixteen at a time, and eight that are left
@pytest.mark.parametrize("n_blocks", [1, 2, 28])
def test_as_computed_exactly(kind: str, n_columns: int, n_blocks: int) -> None:
    """One row and every number of rows that is multiplied at once give the product, as nearly as floats can."""
    product = Product(LIBRARY, kind, n_blocks=n_blocks, n_columns=n_columns, n_rows=28)
    assert all(map(product.is_right, (4, 8, 12, 16, 28)))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("n_columns", [8, 24, 48])
def test_a_row_does_not_depend_on_others(kind: str, n_columns: int) -> None:
    """To the last bit: a stream's tokens must not change with how many others decode beside it."""
    product = Product(LIBRARY, kind, n_blocks=28, n_columns=n_columns, n_rows=32)
    assert all(map(product.is_alike, range(4, 33, 4)))
