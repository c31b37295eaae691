"""ggml's products of repacked weights in our build (deploy/patches)."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

from tests.engine.llama.kernels import KINDS, Library, Product

LIBRARY = Library(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-cpu.*")))
SIXTEENS = [(kind, n) for kind in KINDS for n in (16, 48, 64)]
EIGHTS = [(kind, n) for kind in ("q4_0", "q4_K", "iq4_nl") for n in (8, 24)]  # eight left over from sixteen


@pytest.mark.parametrize(("kind", "n_columns"), SIXTEENS + EIGHTS)
@pytest.mark.parametrize("n_blocks", [1, 2, 28])
def test_products_equal_double_precision(kind: str, n_columns: int, n_blocks: int) -> None:
    """One row and every number of rows that is multiplied together give the product within floating-point error."""
    product = Product(LIBRARY, kind, n_blocks=n_blocks, n_columns=n_columns, n_rows=28)
    assert product.is_possible
    assert all(map(product.is_right, (2, 4, 7, 8, 12, 16, 28)))


@pytest.mark.parametrize(("kind", "n_columns"), SIXTEENS + EIGHTS)
def test_a_row_does_not_depend_on_others(kind: str, n_columns: int) -> None:
    """Bit for bit: a stream's tokens must not change with how many others are in the batch."""
    product = Product(LIBRARY, kind, n_blocks=28, n_columns=n_columns, n_rows=32)
    assert product.is_possible
    assert all(map(product.is_alike, (2, 3, *range(4, 33, 4))))
