"""The tokens that can be among the k likeliest, compared with a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.sampling.top_candidates import N_ROWS, can_be_found, top_candidates

Logits = NDArray[np.float32]


def random_logits(n: int, seed: int, n_steps: int = 0) -> Logits:
    """n logits; with n_steps many are equal."""
    values = np.random.default_rng(seed).standard_normal(n) * 3
    return (np.round(values * n_steps) / n_steps if n_steps else values).astype(np.float32)


sizes = st.integers(N_ROWS * 8, N_ROWS * 100)


@given(sizes, st.integers(1, 25), st.integers(0, 1000), st.sampled_from([0, 2, 100]))
def test_none_is_missed(n: int, k: int, seed: int, n_steps: int) -> None:
    """Every token as likely as the k-th, equal ones too, is included, once and in order."""
    logits = random_logits(n, seed, n_steps)
    ids = top_candidates(logits, k)
    if ids is not None:
        assert set(np.flatnonzero(logits >= np.sort(logits)[-k])) <= set(ids)
        assert (np.diff(ids) > 0).all()


@given(sizes, st.integers(0, 1000))
def test_few_others_are_included(n: int, seed: int) -> None:
    """Of logits that differ at most about 1.4 k are left if there is a quarter of a group for each of k."""
    k = n // N_ROWS // 4
    ids = top_candidates(random_logits(n, seed), k)
    assert ids is not None and k <= len(ids) <= 2 * k + 3


def test_the_likeliest_at_the_edges_of_groups() -> None:
    """They are found in the first group and in the last, and among the tokens that fill no group."""
    for n in (N_ROWS * 40, N_ROWS * 40 + 1, N_ROWS * 41 - 1):
        for at in ([0, 1], [n - 2, n - 1], [39, 40], [n // 2, n - 1]):
            logits = random_logits(n, 0)
            logits[at] = 50.0
            ids = top_candidates(logits, 2)
            assert ids is not None and set(at) <= set(ids) and len(ids) < 10


@pytest.mark.parametrize("n", [N_ROWS * 40, N_ROWS * 40 + 7])
def test_where_it_does_not_help(n: int) -> None:
    """None for logits that are all equal or mostly excluded, for any NaN, and for a k too large for the vocabulary."""
    assert top_candidates(np.zeros(n, np.float32), 5) is None
    ruled_out = np.full(n, -np.inf, np.float32)
    ruled_out[:4] = 1.0
    assert top_candidates(ruled_out, 5) is None
    for at in (0, n // 2, n - 1):
        logits = random_logits(n, 1)
        logits[at] = np.nan
        assert top_candidates(logits, 5) is None
    assert can_be_found(n, 10) and top_candidates(random_logits(n, 1), 10) is not None
    for k in (-1, 0, 11, n, n + 1):
        assert not can_be_found(n, k) and top_candidates(random_logits(n, 1), k) is None
