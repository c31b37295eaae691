"""Log-probabilities: the log-softmax of the row alone, whatever samplers and biases do with it afterwards."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.engine.llama.model import Model
from service.engine.sampling.logprobs import LEAST, Distribution, Ranked, likeliest, log_sum_exp, named
from service.protocol.said import Candidate, TokenLogprob

LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40)


def row(logits: list[float]) -> NDArray[np.float32]:
    return np.array(logits, np.float32)


def random_row(n_vocab: int, seed: int = 1) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n_vocab) * 4).astype(np.float32)


@given(LOGITS, st.integers(0, 20))
def test_they_are_the_log_softmax(logits: list[float], n: int) -> None:
    """The exponentials of all of them add up to one, and the top ones are the largest, the largest first."""
    distribution = Distribution(row(logits), n)
    found = [distribution.of(token) for token in range(len(logits))]
    exact = np.array(row(logits), np.float64)
    exact -= np.log(np.exp(exact - exact.max()).sum()) + exact.max()
    assert [one.logprob for one in found] == pytest.approx(list(exact), abs=2e-6)
    best = sorted(range(len(logits)), key=lambda token: (-row(logits)[token], token))[:n]
    assert found[0].top == tuple((token, found[token].logprob) for token in best)


@pytest.mark.parametrize("n_vocab", [300, 20_000, 152_000])
def test_the_likeliest_of_a_vocabulary(n_vocab: int) -> None:
    """They are the same whether all tokens are sorted or the top candidates are searched; of equal ones the lower id
    comes first."""
    logits = random_row(n_vocab)
    logits[[7, 200, 33]] = logits.max() + 1
    assert likeliest(logits, 20).tolist() == np.argsort(-logits, kind="stable")[:20].tolist()
    assert likeliest(logits, 3).tolist() == [7, 33, 200]
    assert likeliest(np.zeros(n_vocab, np.float32), 4).tolist() == [0, 1, 2, 3]


def test_they_are_the_same_wherever_the_row_is() -> None:
    """The address of a row in the batch's outputs makes no difference."""
    logits = random_row(30_011)
    memory = np.zeros(logits.size + 16, np.float32)
    sums = set()
    for at in range(16):
        memory[at : at + logits.size] = logits
        sums.add(log_sum_exp(memory[at : at + logits.size]))
    assert len(sums) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_can_not_hold(bad: float) -> None:
    """A logit that is no finite number has a log-probability that is one."""
    logits = row([1.0, bad, 2.0])
    distribution = Distribution(logits, 3)
    for token in range(3):
        found = distribution.of(token)
        values = [found.logprob, *(value for _, value in found.top)]
        assert all(value is not None and LEAST <= value <= 0 for value in values)
    assert distribution.of(1).logprob == LEAST


def test_a_certain_token_has_zero() -> None:
    """And no negative zero."""
    assert str(Distribution(row([100.0, 0.0]), 0).of(0).logprob) == "0.0"


def test_names(bpe: Model) -> None:
    """A token has its text and bytes, broken UTF-8 as U+FFFD in the text alone; a control token is spelled, and has no
    bytes."""
    (fox,) = bpe.tokenize("fox", add_special=False, parse_special=False)
    (half, *_) = bpe.tokenize("✨", add_special=False, parse_special=False)
    (end,) = bpe.control_ids["<|im_end|>"]
    found = named(bpe, Ranked(half, -1.5, ((fox, -0.5), (end, -2.0))), 3)
    piece = bpe.piece(half)
    assert piece == "✨".encode()[: len(piece)] != "✨".encode()
    top = [Candidate("fox", b"fox", -0.5), Candidate("<|im_end|>", None, -2.0)]
    assert found == TokenLogprob("\ufffd", piece, -1.5, 3, top)
