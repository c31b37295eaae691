"""The CPU libraries in the image: those that this machine can run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compose.stack import Stack
from tests.engine.llama.kernels import KINDS

pytestmark = pytest.mark.e2e

KERNELS = Path(__file__).parents[1] / "engine" / "llama" / "kernels.py"
# Prints for each library that runs here, and each type of weights, whether products are right and rows independent.
# Without AVX2 these products are not used: ggml then repacks no columns.
PROGRAM = """
import json
import llama_cpp  # has what they are linked with loaded
found = {}
for path in Path("/opt/rill/ggml").glob("libggml-cpu-*.so"):
    if ctypes.CDLL(str(path)).ggml_backend_score() == 0:
        continue
    library = Library(path)
    if not library.cpu.ggml_cpu_has_avx2():
        continue
    for kind in KINDS:
        made = {n: Product(library, kind, n_blocks=28, n_columns=n, n_rows=28) for n in (8, 16, 24, 48, 64)}
        products = [product for n, product in made.items() if n % 16 == 0 or product.is_possible]
        numbers = [(product, n) for product in products for n in (2, 4, 7, 8, 12, 16, 28)]
        found[f"{path.stem.removeprefix('libggml-cpu-')} {kind}"] = {
            "is possible": all(product.is_possible for product in products),
            "is right": all(product.is_right(n) for product, n in numbers),
            "rows are alike": all(product.is_alike(n) for product, n in numbers),
        }
print(json.dumps(found))
"""


def test_each_library_multiplies_exactly(stack: Stack) -> None:
    """Every product of the image that runs here is right, and no row depends on the others, also for products that this
    machine's own build does not use."""
    [container] = stack.containers("service")
    found = json.loads(stack.python(container, KERNELS.read_text() + PROGRAM))
    assert {f"haswell {kind}" for kind in KINDS} <= set(found)
    assert {name: seen for name, seen in found.items() if not all(seen.values())} == {}
