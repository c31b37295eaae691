"""Sampling for many sequences: each gets the tokens that its sampler draws alone, with any number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates
from service.engine.sampling import parallel as drawing
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.logprobs import Distribution
from service.engine.sampling.parallel import Draw, Drawn, ParallelSampler
from service.engine.sampling.sampler import make
from service.protocol.sampling import Sampling
from tests.engine.conftest import MakeContext

PLAIN = Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0)
KINDS = [
    Sampling(seed=1, temperature=0.0),
    Sampling(seed=2, temperature=1.5),
    replace(PLAIN, seed=3, temperature=1.2),
    replace(PLAIN, seed=4, frequency_penalty=0.5),
    replace(PLAIN, seed=5, xtc_probability=0.5, xtc_threshold=0.05),
    replace(PLAIN, seed=6, grammar='root ::= [a-z ]+ [A-Z]* "."'),
    replace(PLAIN, seed=7, mirostat=2, mirostat_tau=3.0),
    replace(PLAIN, seed=8, adaptive_target=0.2),
]


class Rows:
    """A stand-in for the context: deterministic rows of random logits."""

    def __init__(self, n_vocab: int, n: int) -> None:
        self.n = n
        self._rows = (np.random.default_rng(5).standard_normal((n, n_vocab)) * 3).astype(np.float32)

    def logits(self, index: int) -> NDArray[np.float32]:
        if not 0 <= index < self.n:
            raise LlamaError("no logits")
        return np.array(self._rows[index])


@pytest.fixture(params=[1, 2, 5])
def n_threads(request: pytest.FixtureRequest) -> int:
    n: int = request.param
    return n


@pytest.fixture
def draws(bpe: Model, n_threads: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[ParallelSampler]:
    """It uses its threads despite the tiny vocabulary."""
    monkeypatch.setattr(drawing, "MIN_N_VOCAB", 0)
    made = ParallelSampler(bpe.n_vocab, n_threads)
    yield made
    made.close()


def by_itself(model: Model, sampling: Sampling, rows: Rows, indices: Sequence[int]) -> list[int]:
    sampler = make(model, sampling)
    drawn = [sampler.draw(rows.logits(i), Candidates(model.n_vocab)) for i in indices]
    sampler.close()
    return drawn


def test_each_draws_as_alone(bpe: Model, draws: ParallelSampler) -> None:
    """16 sequences of every kind, 20 decodes: each draws what it draws alone."""
    samplings = [replace(s, seed=s.seed + i) for i in (0, 100) for s in KINDS]
    samplers, rows = [make(bpe, s) for s in samplings], Rows(bpe.n_vocab, len(samplings))
    made: list[list[int]] = [[] for _ in samplings]
    for _ in range(20):
        runs = [Draw(sampler, i) for i, sampler in enumerate(samplers)]
        for tokens, drawn in zip(made, draws.draw(rows, runs), strict=True):  # type: ignore[arg-type]
            tokens += drawn.tokens
    for i, (sampling, tokens) in enumerate(zip(samplings, made, strict=True)):
        if not bpe.end_tokens & set(tokens):
            assert tokens == by_itself(bpe, sampling, rows, [i] * 20)
    assert [len(tokens) for tokens in made] == [20] * 16
    for sampler in samplers:
        sampler.close()


@pytest.mark.parametrize("sampling", KINDS)
def test_a_run_of_draft_tokens(bpe: Model, draws: ParallelSampler, sampling: Sampling) -> None:
    """Draft tokens that equal the drawn ones are accepted up to the first that does not, with its row the last one
    drawn from: the sampler then draws what it draws without draft tokens."""
    rows = Rows(bpe.n_vocab, 9)
    alone = by_itself(bpe, sampling, rows, range(9))
    for n_right in range(5):
        sampler = make(bpe, sampling)
        wrong = (alone[n_right] + 1) % bpe.n_vocab
        drafts = [*alone[:n_right], wrong, *alone[n_right + 1 : 5]]
        (first,) = draws.draw(rows, [Draw(sampler, 0, drafts)])  # type: ignore[arg-type]
        assert first == Drawn(alone[: n_right + 1])
        (second,) = draws.draw(rows, [Draw(sampler, n_right + 1, alone[n_right + 1 : n_right + 3])])  # type: ignore[arg-type]
        assert second == Drawn(alone[n_right + 1 : n_right + 4])
        sampler.close()


def test_several_runs(bpe: Model, draws: ParallelSampler) -> None:
    """Each run has its own rows, and its result has its position."""
    rows = Rows(bpe.n_vocab, 8)
    alone = by_itself(bpe, KINDS[2], rows, range(8))
    one, two = make(bpe, KINDS[2]), make(bpe, KINDS[2])
    greedy = [int(rows.logits(i).argmax()) for i in range(8)]
    runs = [Draw(one, 0, alone[:2]), Draw(Argmax(), 3, greedy[3:5]), Draw(two, 0), Draw(Argmax([greedy[6]]), 6)]
    drawn = draws.draw(rows, runs)  # type: ignore[arg-type]
    assert drawn[:3] == [Drawn(alone[:3]), Drawn(greedy[3:6]), Drawn(alone[:1])]
    assert drawn[3].tokens != greedy[6:7]
    assert draws.draw(rows, []) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [*KINDS, replace(PLAIN, seed=9, logit_bias=((7, 50.0), (8, None)))])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_log_probabilities_are_of_the_raw_logits(
    bpe: Model, draws: ParallelSampler, sampling: Sampling, ignore_eos: bool
) -> None:
    """Each token of a run has those of its own row, whatever its sampler does; without changing what is drawn."""
    rows = Rows(bpe.n_vocab, 4)
    plain, asking = (make(bpe, sampling, ignore_eos=ignore_eos) for _ in range(2))
    alone = [plain.draw(rows.logits(i), Candidates(bpe.n_vocab)) for i in range(4)]
    (drawn,) = draws.draw(rows, [Draw(asking, 0, alone[:3], 2)])  # type: ignore[arg-type]
    assert drawn.tokens == alone
    assert drawn.logprobs == [Distribution(rows.logits(i), 2).of(token) for i, token in enumerate(alone)]
    for sampler in (plain, asking):
        sampler.close()


def test_a_grammar_that_ends_in_the_middle(bpe: Model, draws: ParallelSampler) -> None:
    """If the grammar can't be followed the run ends with an error after the tokens before it; others continue."""
    (a,) = bpe.tokenize("a", add_special=False, parse_special=False)
    stuck = make(bpe, replace(PLAIN, grammar='root ::= "aa" [^\\x00-\\UFFFFFFFF]'))
    other, rows = make(bpe, KINDS[2]), Rows(bpe.n_vocab, 8)
    drawn = draws.draw(rows, [Draw(stuck, 0, [a, a, a]), Draw(other, 4)])  # type: ignore[arg-type]
    assert drawn[0].tokens == [a, a] and isinstance(drawn[0].error, GrammarError)
    assert drawn[1] == Drawn(by_itself(bpe, KINDS[2], rows, [4]))


def test_no_logits(bpe: Model, draws: ParallelSampler) -> None:
    """If a row has no logits nothing is drawn for any sequence."""
    sampler, rows = make(bpe, KINDS[2]), Rows(bpe.n_vocab, 2)
    with pytest.raises(LlamaError, match="no logits"):
        draws.draw(rows, [Draw(sampler, 0), Draw(Argmax(), 1, [5])])  # type: ignore[arg-type]
    assert draws.draw(rows, [Draw(sampler, 0)])[0].tokens == by_itself(bpe, KINDS[2], rows, [0])  # type: ignore[arg-type]


def test_with_a_real_context(bpe: Model, make_context: MakeContext, draws: ParallelSampler) -> None:
    """Each sequence of one decode gets the argmax of its logits."""
    context = make_context(bpe)
    prompts = [bpe.tokenize(text, add_special=True, parse_special=False) for text in ("the fox", "Hello", "x y")]
    last = context.decode([(i, 0, prompt, True) for i, prompt in enumerate(prompts)])
    drawn = draws.draw(context, [Draw(Argmax(), index) for index in last])
    assert [d.tokens for d in drawn] == [[int(context.logits(index).argmax())] for index in last]


def test_close_twice(bpe: Model) -> None:
    """close may be called twice."""
    made = ParallelSampler(bpe.n_vocab, 2)
    made.close()
    made.close()
