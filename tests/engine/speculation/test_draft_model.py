"""A draft model on the real llama.cpp: what it guesses, what it holds, and that the text stays as it is without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from service.engine.llama.context import Context, NoRoom
from service.engine.llama.model import LlamaError, Model
from service.engine.scheduling.prefill_chunks import PrefillChunker
from service.engine.speculation.costs import DecodeCost
from service.engine.speculation.draft_model import DraftModel, check
from service.engine.speculation.drafter import Drafts
from tests.engine import tiny
from tests.engine.conftest import MakeContext
from tests.engine.speculation.test_drafter import sequence
from tests.engine.speculation.test_drafting import Free, counts, run
from tests.engine.test_engine import each_alone, essence, exact, mixed

__all__ = ["model"]
from tests.engine.test_engine import model

SLICES = PrefillChunker(target_s=0.2, n_batch=64, row_s=1.0)  # of LEAST tokens


@pytest.fixture
def draft(bpe: Model, make_context: MakeContext) -> DraftModel:
    context = make_context(bpe, n_ctx=256, n_seq=2, n_kept=0, n_batch=64)
    return DraftModel(bpe, context, DecodeCost(), SLICES, n_vocab=bpe.n_vocab)


def greedy(model: Model, context: Context, tokens: list[int], n: int) -> list[int]:
    """What the model says next, one token after the other."""
    said: list[int] = []
    for _ in range(n):
        (index,) = context.decode([(0, 0, [*tokens, *said], 1)])
        said.append(int(context.logits(index).argmax()))
        context.forget(0)
    return said


def without_ends(model: Model, tokens: list[int]) -> list[int]:
    return tokens[: next((i for i, t in enumerate(tokens) if t in model.end_tokens), len(tokens))]


def test_how_much_it_reads_is_learnt(bpe: Model, make_context: MakeContext) -> None:
    """What a row took when it was loaded, beside whatever neighbours, is not believed for ever."""
    slices, at = PrefillChunker(target_s=0.2, n_batch=64, row_s=1.0), iter(range(10**6))
    context = make_context(bpe, n_ctx=256, n_seq=2, n_kept=0, n_batch=64)
    draft = DraftModel(bpe, context, DecodeCost(), slices, n_vocab=bpe.n_vocab, wall=lambda: next(at) / 1000)
    for i in range(20):
        draft.guess([sequence("a", [5 + i] * 32)], 1)
    assert slices.row_s < 0.01


def test_it_guesses_what_it_would_say(bpe: Model, draft: DraftModel, make_context: MakeContext) -> None:
    """Of two texts at once, whether they go on as guessed, otherwise, or begin anew."""
    context, texts = make_context(bpe), {"a": [5, 6, 7, 8], "b": [40, 30, 20]}
    sequences = [sequence(id, tokens) for id, tokens in texts.items()]
    for go_on in ([], [9], [9, 10, 11]):
        for s in sequences:
            s.tokens += go_on
        expected = [without_ends(bpe, greedy(bpe, context, s.tokens, 4)) for s in sequences]
        assert draft.guess(sequences, 4) == expected
        sequences[0].tokens += expected[0][:2]
    sequences[1].tokens = [50, 51]
    assert draft.guess(sequences[1:], 3) == [without_ends(bpe, greedy(bpe, context, [50, 51], 3))]
    assert draft.guess(sequences[1:], 3) == [without_ends(bpe, greedy(bpe, context, [50, 51], 3))], "asked again"


def test_a_long_prompt_is_read_over_several_calls(draft: DraftModel) -> None:
    """No call reads more than a slice: until it has caught up it guesses nothing, and for others as before."""
    long, short = sequence("long", [5 + i % 90 for i in range(70)]), sequence("short", [5, 6, 7])
    assert [bool(g) for g in draft.guess([short, long], 2)] == [True, False]
    assert [bool(g) for g in draft.guess([short, long], 2)] == [True, False]
    assert [bool(g) for g in draft.guess([short, long], 2)] == [True, True]


def test_who_was_not_asked_for_longest_gives_way(draft: DraftModel) -> None:
    """Ids and cells are taken from those that are not asked for now; without any left a sequence does without."""
    a, b, c = (sequence(id, [5, 6, 7]) for id in "abc")
    draft.guess([a], 1)
    draft.guess([b], 1)
    assert all(draft.guess([a, c], 1))
    assert repr(draft) == "<DraftModel tiny, 2 sequences, 6/256 cells>"
    assert len([g for g in draft.guess([a, b, c], 1) if g]) == 2
    large = sequence("large", [5 + i % 90 for i in range(252)])
    for _ in range(9):
        assert draft.guess([a, large], 4)[1] == [], "both do not fit"
    guesses = [draft.guess([large], 4)[0] for _ in range(9)]
    assert guesses[-1]
    for s in (a, b, c, large):
        draft.forget(s.id)
        draft.forget(s.id)
    assert repr(draft) == "<DraftModel tiny, 0 sequences, 0/256 cells>"


class Full:
    """A context that has no room, whatever is counted, and the ids that it was told to forget."""

    n_ids, n_ctx, n_batch = 2, 256, 64

    def __init__(self) -> None:
        self.forgotten: list[int] = []

    def decode(self, rows: object) -> list[int]:
        raise NoRoom("none")

    def forget(self, seq_id: int) -> None:
        self.forgotten.append(seq_id)


def test_no_room_is_no_guess(bpe: Model) -> None:
    """What can't be computed is forgotten; nobody's text depends on it."""
    context = Full()
    draft = DraftModel(bpe, cast(Any, context), DecodeCost(), SLICES, n_vocab=bpe.n_vocab)
    assert draft.guess([sequence("a", [5, 6]), sequence("b", [7, 8])], 3) == [[], []]
    assert {*context.forgotten} == {0, 1}
    assert repr(draft) == "<DraftModel tiny, 0 sequences, 0/256 cells>"


def drafts(model: Model, draft: DraftModel) -> Drafts:
    """As if nothing cost anything, so that whatever is guessed is decoded."""
    return Drafts(model.end_tokens, Free(), model=draft, min_seconds=0.0)


def test_text_stays_as_it_is(model: Model, make_context: MakeContext) -> None:
    """16 mixed requests, guessed by the model itself: right where they are greedy, and wrong else."""
    context = exact(make_context, model)
    alone = each_alone(model, context, mixed())
    own = make_context(model, n_ctx=4096, n_seq=16, n_kept=0)
    draft = DraftModel(model, own, Free(), SLICES, n_vocab=model.n_vocab)
    driver = run(model, context, drafts(model, draft), *mixed())
    ids = [r.id for r in mixed()]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert min(counts(driver)) > 20
    assert repr(draft).endswith(", 0 sequences, 0/4096 cells>"), "who ended is forgotten"


def test_another_models_guesses(bpe: Model, write: Callable[..., Path], make_context: MakeContext) -> None:
    """Mostly wrong, and the text as without."""
    other = Model(write("draft-other", seed=7), n_gpu_layers=0)
    context = exact(make_context, bpe)
    alone = each_alone(bpe, context, mixed())
    own = Context(other, n_ctx=512, n_seq=8, n_batch=64, n_threads=1)
    driver = run(bpe, context, drafts(bpe, DraftModel(other, own, Free(), SLICES, n_vocab=bpe.n_vocab)), *mixed())
    ids = [r.id for r in mixed()]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert counts(driver)[1] > 50
    own.close()
    other.close()


def test_which_models_can_guess(bpe: Model, write: Callable[..., Path], make_context: MakeContext) -> None:
    """One of another vocabulary, or whose memory can't be cut, is refused with the reason."""
    check(bpe, bpe, make_context(bpe))
    for name, options, reason in (
        ("fewer", {"words": ["word"]}, "token 2.. is"),
        ("more", {"words": [*tiny.WORDS, *(f"w{i}" for i in range(200))]}, "its vocabulary has ... tokens"),
        ("mamba", {"arch": "mamba"}, "can't be truncated"),
    ):
        draft = Model(write(f"draft-{name}", **options), n_gpu_layers=0)
        context = Context(draft, n_ctx=256, n_seq=1, n_batch=32, n_threads=1)
        with pytest.raises(LlamaError, match=reason):
            check(bpe, draft, context)
        context.close()
        draft.close()
