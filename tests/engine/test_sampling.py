"""Sampling parameters to sampler links, and each chain really made and drawn from."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.llama import Context, LlamaError, Model
from service.engine.protocol import Sampling
from service.engine.sampler import Argmax, Sampler
from service.engine.sampling import chain, is_greedy, window

from .conftest import MakeContext

PLAIN = Sampling(seed=1, top_k=0, top_p=1.0, min_p=0.0)
samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**32 - 2),
    temperature=st.sampled_from([-1.0, 0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([-1, 0, 1, 40]),
    top_p=st.sampled_from([0.0, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
    repeat_last_n=st.sampled_from([0, 64]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    frequency_penalty=st.sampled_from([-2.0, 0.0, 2.0]),
)
ends = st.sampled_from([list[int](), [2, 4]])


def names(sampling: Sampling, ignore_eos: bool = False) -> list[str]:
    return [name for name, _ in chain(sampling, [2, 4] if ignore_eos else [])]


def test_defaults() -> None:
    """llama.cpp's own defaults and order: top_k, top_p, min_p, temperature, then the draw."""
    assert chain(Sampling(seed=7), []) == [
        ("top_k", (40,)),
        ("top_p", (0.95,)),
        ("min_p", (0.05,)),
        ("temperature", (0.8,)),
        ("draw", ()),
    ]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (replace(PLAIN, temperature=1.0), ["temperature", "draw"]),
        (replace(PLAIN, top_k=1), ["top_k", "temperature", "draw"]),
        (replace(PLAIN, top_k=-1), ["temperature", "draw"]),
        (replace(PLAIN, top_p=0.0), ["top_p", "temperature", "draw"]),
        (replace(PLAIN, min_p=0.1), ["min_p", "temperature", "draw"]),
        (replace(PLAIN, presence_penalty=0.5), ["penalties", "temperature", "draw"]),
        (replace(PLAIN, frequency_penalty=-0.5), ["penalties", "temperature", "draw"]),
        (replace(PLAIN, repeat_penalty=1.1), ["penalties", "temperature", "draw"]),
        (replace(PLAIN, repeat_penalty=1.1, repeat_last_n=0), ["temperature", "draw"]),
        (Sampling(seed=1, temperature=0.0), ["greedy"]),
        (Sampling(seed=1, temperature=-1.0), ["greedy"]),
        (Sampling(seed=1, temperature=0.0, repeat_penalty=1.1), ["penalties", "greedy"]),
    ],
)
def test_only_links_that_change_something(sampling: Sampling, expected: list[str]) -> None:
    """A parameter that switches its sampler off leaves it out of the chain."""
    assert names(sampling) == expected
    assert names(sampling, ignore_eos=True) == ["bias", *expected]


def test_arguments() -> None:
    """Each link gets its own parameters, the penalties in C's order."""
    s = Sampling(seed=9, temperature=0.0, repeat_penalty=1.5, repeat_last_n=8, presence_penalty=0.25)
    assert chain(s, [2, 4]) == [("bias", ([(2, None), (4, None)],)), ("penalties", (8, 1.5, 0.0, 0.25)), ("greedy", ())]


@given(samplings)
def test_greedy_is_the_chain_of_argmax_alone(sampling: Sampling) -> None:
    """is_greedy says exactly when the chain does nothing but take the likeliest token."""
    assert is_greedy(sampling) == (chain(sampling, []) == [("greedy", ())])


@given(samplings, ends)
def test_the_last_link_selects(sampling: Sampling, forbidden: list[int]) -> None:
    """Every chain ends with its only selecting sampler: C aborts the process otherwise."""
    links = [name for name, _ in chain(sampling, forbidden)]
    assert [name for name in links if name in ("draw", "greedy")] == links[-1:]


def logits_of(context: Context, model: Model, text: str) -> int:
    """The batch index of logits after a text."""
    (index,) = context.decode([(0, 0, model.tokenize(text, add_special=True, parse_special=True), True)])
    return index


def draw(context: Context, model: Model, index: int, n: int, sampling: Sampling, **kw: Any) -> list[int]:
    """n tokens that one chain draws from the same logits."""
    links = chain(sampling, sorted(model.end_tokens) if kw.get("ignore_eos") else [])
    sampler = Sampler(model, links, seed=sampling.seed, window=window(sampling), grammar=sampling.grammar)
    sampler.go_on(kw.get("accepted", []), [])
    drawn = [sampler.draw(context, index) for _ in range(n)]
    sampler.close()
    return drawn


def test_every_combination_can_be_made_and_drawn_from(bpe: Model, make_context: MakeContext) -> None:
    """No combination of parameters is refused by C, and each draws a token of the vocabulary."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "Hello world")
    for temperature, top_k, top_p, min_p, penalty, ignore_eos in itertools.product(
        [0.0, 0.8], [0, 1, 40], [0.0, 0.9, 1.0], [0.0, 0.05, 1.0], [0.0, 0.5], [False, True]
    ):
        s = Sampling(seed=3, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, frequency_penalty=penalty)
        assert 0 <= draw(context, bpe, index, 1, s, ignore_eos=ignore_eos)[0] < bpe.n_vocab


def test_greedy_chain_is_argmax(bpe: Model, make_context: MakeContext) -> None:
    """The C chain at temperature 0, top_k 1 at any, and argmax take the same token."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    likeliest = context.argmax(index)
    assert draw(context, bpe, index, 3, Sampling(seed=1, temperature=0.0)) == [likeliest] * 3
    assert draw(context, bpe, index, 3, Sampling(seed=1, temperature=2.0, top_k=1)) == [likeliest] * 3
    assert draw(context, bpe, index, 3, replace(PLAIN, temperature=2.0, top_p=0.0)) == [likeliest] * 3


def test_argmax_takes_none_that_is_forbidden(bpe: Model, make_context: MakeContext) -> None:
    """Argmax in a Sampler's place takes the likeliest token that is allowed, as a chain with a bias does."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = Argmax().draw(context, index)
    chained = Sampler(bpe, [("bias", ([(first, None)],)), ("greedy", ())])
    expected = chained.draw(context, index)
    chained.close()
    assert first != expected == Argmax([first]).draw(context, index)


def test_a_seed_repeats_and_another_differs(bpe: Model, make_context: MakeContext) -> None:
    """The same seed draws the same tokens, the next one others, the highest one too."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")

    def with_seed(seed: int) -> list[int]:
        return draw(context, bpe, index, 30, replace(PLAIN, seed=seed, temperature=2.0))

    assert with_seed(0) == with_seed(0)
    assert with_seed(2**32 - 2) == with_seed(2**32 - 2)
    assert len({tuple(with_seed(seed)) for seed in (0, 1, 2, 2**31, 2**32 - 2)}) == 5


def test_a_higher_temperature_spreads(bpe: Model, make_context: MakeContext) -> None:
    """Temperature reaches C: a low one stays with few tokens, a high one takes many."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    cold, warm = (len(set(draw(context, bpe, index, 200, replace(PLAIN, temperature=t)))) for t in (0.1, 3.0))
    assert cold < warm / 3


def test_top_k_bounds_the_choice(bpe: Model, make_context: MakeContext) -> None:
    """With top_k 5 five tokens are drawn at most, and with patience all five."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    drawn = draw(context, bpe, index, 300, replace(PLAIN, temperature=5.0, top_k=5))
    assert len(set(drawn)) == 5


def test_forbidden_end_tokens_are_never_drawn(bpe: Model, make_context: MakeContext) -> None:
    """ignore_eos keeps every end token out, where without it they would be drawn."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    hot = replace(PLAIN, temperature=50.0)  # every token about equally likely
    assert bpe.end_tokens & set(draw(context, bpe, index, 3000, hot))
    assert not bpe.end_tokens & set(draw(context, bpe, index, 3000, hot, ignore_eos=True))


def test_presence_penalty_counts_what_was_accepted(bpe: Model, make_context: MakeContext) -> None:
    """A token that the prompt holds is as unlikely as the penalty makes it; repeat_last_n forgets the older ones."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    first = context.argmax(index)
    heavy = Sampling(seed=1, temperature=0.0, presence_penalty=1000.0)
    assert draw(context, bpe, index, 1, heavy) == [first]
    second = draw(context, bpe, index, 1, heavy, accepted=[first])[0]
    assert second != first
    short = replace(heavy, repeat_last_n=2)
    assert draw(context, bpe, index, 1, short, accepted=[first, second, second]) == [first]


def test_penalties_count_what_was_drawn(bpe: Model, make_context: MakeContext) -> None:
    """Drawing tells the chain: with a heavy penalty no token comes twice."""
    context = make_context(bpe)
    index = logits_of(context, bpe, "the fox")
    drawn = draw(context, bpe, index, 50, Sampling(seed=1, temperature=0.0, frequency_penalty=1000.0))
    assert Counter(drawn).most_common(1)[0][1] == 1
    assert (
        draw(context, bpe, index, 50, Sampling(seed=1, temperature=0.0, frequency_penalty=-1000.0)) == [drawn[0]] * 50
    )


@pytest.mark.parametrize("links", [[], [("top_k", (5,))], [("greedy", ()), ("temperature", (1.0,))]])
def test_a_chain_that_selects_nothing_is_refused(bpe: Model, links: list[tuple[str, tuple[Any, ...]]]) -> None:
    """A chain without a selecting sampler at its end is an error: sampling with it would abort the process."""
    with pytest.raises(LlamaError, match="select"):
        Sampler(bpe, links)


def test_close_twice(bpe: Model) -> None:
    """A sampler's release may be asked for twice."""
    sampler = Sampler(bpe, [("greedy", ())])
    sampler.close()
    sampler.close()
