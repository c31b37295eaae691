"""Sampling parameters to sampler links."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.engine.llama.chain_links import EDITING, SELECTING
from service.engine.sampling.chain import chain, is_greedy, is_rebuildable, n_best, n_edits, seed_at, window
from service.protocol.sampling import Sampling

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
    typical_p=st.sampled_from([0.5, 1.0]),
    top_n_sigma=st.sampled_from([-1.0, 1.0]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    dynatemp_range=st.sampled_from([0.0, 1.0]),
    mirostat=st.sampled_from([0, 1, 2]),
    adaptive_target=st.sampled_from([-1.0, 0.5]),
    logit_bias=st.sampled_from([(), ((5, 1.0),), ((5, None),)]),
)
ends = st.sampled_from([list[int](), [2, 4]])


def names(sampling: Sampling, ignore_eos: bool = False) -> list[str]:
    return [name for name, _ in chain(sampling, [2, 4] if ignore_eos else [])]


def test_defaults() -> None:
    """llama.cpp's own defaults and order: top_k, top_p, min_p, temperature, then the random draw."""
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
        (replace(PLAIN, dry_multiplier=0.8), ["dry", "temperature", "draw"]),
        (replace(PLAIN, dry_multiplier=0.8, dry_penalty_last_n=0), ["temperature", "draw"]),
        (replace(PLAIN, top_n_sigma=1.0), ["top_n_sigma", "temperature", "draw"]),
        (replace(PLAIN, typical_p=0.9), ["min_p", "typical_p", "temperature", "draw"]),
        (replace(PLAIN, xtc_probability=0.5), ["xtc", "temperature", "draw"]),
        (replace(PLAIN, xtc_probability=0.5, xtc_threshold=0.6), ["temperature", "draw"]),
        (replace(PLAIN, dynatemp_range=0.5), ["dynamic_temperature", "draw"]),
        (replace(PLAIN, adaptive_target=0.3), ["temperature", "adaptive_p"]),
        (replace(PLAIN, mirostat=1, dry_multiplier=1.0), ["temperature", "min_p", "mirostat"]),
        (replace(PLAIN, mirostat=2, top_k=5), ["temperature", "min_p", "mirostat_v2"]),
        (Sampling(seed=1, temperature=0.0, mirostat=2, repeat_penalty=1.1), ["greedy"]),
        (Sampling(seed=1, temperature=0.0, adaptive_target=0.3), ["greedy"]),
        (replace(PLAIN, temperature=0.0, xtc_probability=0.5), ["xtc", "greedy"]),
        (replace(PLAIN, temperature=0.0, typical_p=0.5, top_k=9), ["top_k", "min_p", "typical_p", "greedy"]),
    ],
)
def test_only_links_that_change_something(sampling: Sampling, expected: list[str]) -> None:
    """A parameter that disables its sampler leaves it out of the chain."""
    assert names(sampling) == expected
    assert names(sampling, ignore_eos=True) == ["bias", *expected]


def test_arguments() -> None:
    """Each link gets its own parameters, the penalties in C's order."""
    s = Sampling(seed=9, temperature=0.0, repeat_penalty=1.5, repeat_last_n=8, presence_penalty=0.25)
    assert chain(s, [2, 4]) == [("bias", ([(2, None), (4, None)],)), ("penalties", (8, 1.5, 0.0, 0.25)), ("greedy", ())]


@given(samplings)
def test_greedy_is_the_chain_of_argmax_alone(sampling: Sampling) -> None:
    """is_greedy is true exactly if the chain only takes the likeliest token, and there is no grammar."""
    assert is_greedy(sampling) == (chain(sampling, []) == [("greedy", ())])
    assert not is_greedy(replace(sampling, grammar='root ::= "a"'))


@given(samplings, ends)
def test_the_last_link_selects(sampling: Sampling, forbidden: list[int]) -> None:
    """Every chain ends with its only selecting sampler: otherwise C aborts the process."""
    links = [name for name, _ in chain(sampling, forbidden)]
    assert [name for name in links if name in SELECTING] == links[-1:]


def test_all_together_are_in_llama_cpps_order() -> None:
    """common_params_sampling.samplers, after the bias."""
    everything = Sampling(
        seed=1,
        repeat_penalty=1.1,
        dry_multiplier=1.0,
        top_n_sigma=2.0,
        typical_p=0.9,
        xtc_probability=0.1,
        dynatemp_range=0.1,
        adaptive_target=0.5,
        logit_bias=((7, 1.5),),
    )
    order = "bias penalties dry top_n_sigma top_k min_p typical_p top_p min_p xtc dynamic_temperature adaptive_p"
    assert names(everything, ignore_eos=True) == order.split()
    assert chain(everything, [2])[0] == ("bias", ([(2, None), (7, 1.5)],))


def test_a_dynamic_temperature_never_reaches_0() -> None:
    """Its lower bound stays where logits divided by it are finite; otherwise it is temperature - range."""
    for temperature, spread, lowest in ((1.0, 0.5, 0.5), (0.5, 1.0, 1e-6), (0.0, 2.0, 1e-6)):
        name, (middle, half, exponent) = chain(replace(PLAIN, temperature=temperature, dynatemp_range=spread), [])[-2]
        assert (name, exponent) == ("dynamic_temperature", 1.0)
        assert (middle - half, middle + half) == pytest.approx((lowest, temperature + spread))


def test_what_can_be_rebuilt() -> None:
    """All but mirostat and adaptive-p, and these too if a temperature of 0 disables them."""
    assert is_rebuildable(replace(PLAIN, xtc_probability=0.5, dry_multiplier=1.0, grammar='root ::= "a"'))
    for stateful in (replace(PLAIN, mirostat=1), replace(PLAIN, mirostat=2), replace(PLAIN, adaptive_target=0.0)):
        assert not is_rebuildable(stateful)
        assert is_rebuildable(replace(stateful, temperature=0.0))


def test_the_window() -> None:
    """As far back as the active samplers look."""
    assert window(PLAIN) == 0
    assert window(replace(PLAIN, repeat_penalty=1.1)) == 64
    assert window(replace(PLAIN, repeat_penalty=1.1, repeat_last_n=9, dry_multiplier=1.0, dry_penalty_last_n=99)) == 99
    assert window(replace(PLAIN, repeat_penalty=1.1, mirostat=1)) == 0


def test_each_position_has_a_seed_of_its_own() -> None:
    """Adjacent seeds and positions never share one, and none is the value that means random."""
    seeds = {seed_at(seed, position) for seed in (0, 1, 2, 2**32 - 2) for position in range(1000)}
    assert len(seeds) > 3990 and max(seeds) < 2**32 - 1
    assert sum(s < 2**31 for s in seeds) / len(seeds) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("sampling", "edits", "best"),
    [
        (Sampling(seed=1), 1, 40),
        (Sampling(seed=1, repeat_penalty=1.1, dry_multiplier=1.0), 3, 40),
        (Sampling(seed=1, temperature=0.0), 1, 1),
        (Sampling(seed=1, temperature=0.0, repeat_penalty=1.1), 2, 1),
        (Sampling(seed=1, top_n_sigma=1.0), 1, 0),  # it depends on the spread of all logits
        (replace(PLAIN, temperature=0.0, typical_p=0.5), 1, 0),
        (replace(PLAIN, mirostat=2, top_k=40), 1, 0),
        (PLAIN, 1, 0),
    ],
)
def test_how_many_of_the_likeliest_suffice(sampling: Sampling, edits: int, best: int) -> None:
    """As many as a top_k right after the edits leaves, one if greedy, else all: 0."""
    links = chain(sampling, [2])
    assert (n_edits(links), n_best(links)) == (edits, best)
    assert n_edits(links) == sum(name in EDITING for name, _ in links)
