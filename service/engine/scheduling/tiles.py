"""How many rows of a batch ggml's kernels compute together. Pure."""

from __future__ import annotations

# ggml's kernels for repacked weights multiply four rows at once, and each remaining one by itself: on a CPU 3 rows take
# half as long again as 4. Sixteen cost no more than 12 or 13 alone.
AT_ONCE, AT_BEST = 4, 16


def is_apart(n_rows: int, n_tile: int | None) -> bool:
    """Whether decoding sequences and prompts, n_rows together, are in separate decodes; see Batch.calls."""
    return n_tile is not None and n_rows >= n_tile
