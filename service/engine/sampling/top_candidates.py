"""Top candidates: a superset of the k likeliest tokens, found in 40 us among 152k logits. Pure numpy.

The k-th largest maximum of disjoint groups of tokens is a lower bound of the k-th largest logit, since k groups have a
token of at least that. Only groups with a maximum that reaches the bound are searched: of 2,374 they are about k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tokens of a group. The maxima of the columns of a table of 64 rows take 25 us, as fast as one maximum of all logits;
# those of rows of 64 take six times as long, since numpy uses SIMD across rows and not within them.
N_ROWS = 64


def can_be_found(n_vocab: int, k: int) -> bool:
    """Whether searching for the k likeliest saves anything."""
    return 0 < k <= n_vocab // N_ROWS // 4


def top_candidates(logits: NDArray[np.float32], k: int) -> NDArray[Any] | None:
    """Ids, ascending, of all tokens with a logit of at least that of the k-th likeliest, and of few others.

    None where it would not save much: a small vocabulary for this k, very many equal logits, or one that is NaN.
    """
    n_groups = logits.size // N_ROWS
    if not can_be_found(logits.size, k):
        return None
    table, rest = logits[: N_ROWS * n_groups].reshape(N_ROWS, n_groups), logits[N_ROWS * n_groups :]
    maxima = table.max(axis=0)
    bound = np.partition(maxima, n_groups - k)[n_groups - k]
    groups = np.flatnonzero(maxima >= bound)
    # Groups that hold a NaN sort last, as the largest, but are not >= any bound: then fewer than k are left.
    if not k <= groups.size <= 2 * k:
        return None
    rows, columns = np.divmod(np.flatnonzero(table[:, groups] >= bound), groups.size)
    ids = rows * n_groups + groups[columns]
    if rest.size == 0:
        return ids
    if np.isnan(rest).any():
        return None
    return np.concatenate([ids, np.flatnonzero(rest >= bound) + N_ROWS * n_groups])
