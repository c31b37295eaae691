"""Who goes back to an engine that died, in what order, and who does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.protocol.deaths import Kind
from service.streams.recovery import MOST_PATIENCE, TRIAL_S, TRIALS, Recovery


def running(*ids: str) -> Recovery:
    """An engine at work on these, each of which has made a token."""
    recovery = Recovery()
    recovery.up()
    for id in ids:
        recovery.add(id)
    assert recovery.due(0.0) == list(ids)
    for id in ids:
        recovery.waits(id)
        recovery.starts(id)
        recovery.proves(id)
    return recovery


def again(recovery: Recovery, kind: Kind) -> list[str]:
    """It dies, and the next one is up; those who have to end have."""
    doomed = recovery.down(kind)
    for id in doomed:
        recovery.end(id)
    recovery.up()
    return doomed


def test_new_ones_are_due_at_once() -> None:
    """Each once, while the engine is up."""
    recovery = running("a")
    recovery.add("b")
    assert (recovery.due(0.0), recovery.due(0.0)) == (["b"], [])
    recovery.down(Kind.CRASH)
    recovery.add("c")
    assert recovery.due(0.0) == []


def test_suspects_come_back_one_by_one_then_all_others() -> None:
    """The next follows a token or the end of the one before; who only waited, and who is new, come last, together."""
    recovery = running("a", "b", "c")
    for id in ("waits", "waits too"):
        recovery.add(id)
    recovery.due(0.0)
    recovery.waits("waits")
    recovery.waits("waits too")
    assert again(recovery, Kind.CRASH) == []
    recovery.add("new")
    assert (recovery.due(0.0), recovery.due(0.0)) == (["a"], [])
    recovery.waits("a")
    recovery.starts("a")
    assert recovery.due(0.0) == []
    recovery.proves("a")
    assert recovery.due(0.0) == ["b"]
    recovery.end("b")
    assert recovery.due(0.0) == ["c"]
    recovery.proves("c")
    assert recovery.due(0.0) == ["waits", "waits too", "new"]


def test_a_trial_has_an_end() -> None:
    """One that says nothing, because its prompt is long or because it can't be told of, holds nobody up for longer."""
    recovery = running("silent", "a")
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["silent"]
    assert recovery.due(TRIAL_S - 0.1) == []
    assert recovery.due(TRIAL_S) == ["a"]
    recovery.add("new")
    assert recovery.due(2 * TRIAL_S - 0.1) == []
    assert recovery.due(2 * TRIAL_S) == ["new"]


@pytest.mark.parametrize("kind", Kind)
def test_the_first_death_blames_nobody(kind: Kind) -> None:
    """However it died, and with however few at work."""
    for ids in (["a"], ["a", "b", "c"]):
        assert running(*ids).down(kind) == []


@pytest.mark.parametrize("kind", [Kind.OUTSIDE, Kind.LOADING])
def test_what_no_request_does_makes_nobody_suspect(kind: Kind) -> None:
    """A kill from outside, a load that fails: all come back at once, however often."""
    recovery = running("a", "b")
    for _ in range(10):
        assert again(recovery, kind) == []
        assert recovery.due(0.0) == ["a", "b"]


@pytest.mark.parametrize("kind", [Kind.HANG, Kind.OWN])
def test_whoever_made_tokens_is_not_suspect_of_a_hang(kind: Kind) -> None:
    """The first one may have come from outside; those that did not get on since are tried one by one."""
    recovery = running("a", "b", "c")
    again(recovery, kind)
    assert recovery.due(0.0) == ["a", "b", "c"]
    recovery.proves("b")
    again(recovery, kind)
    assert recovery.due(0.0) == ["a"]
    recovery.proves("a")
    assert recovery.due(0.0) == ["c"]
    recovery.proves("c")
    assert recovery.due(0.0) == ["b"]


@pytest.mark.parametrize("kind", TRIALS)
def test_who_is_alone_on_trial_is_to_blame(kind: Kind) -> None:
    """After as many trials as such a death asks for. What happens beside others that have passed shows whom to try
    first, and they come back."""
    recovery = running("a", "b", "c")
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["a"]
    recovery.proves("a")
    assert recovery.due(0.0) == ["b"]
    assert again(recovery, kind) == []
    n_alone = max(TRIALS[kind] - 1, 1)
    for n in range(1, n_alone + 1):
        assert recovery.due(0.0) == ["b"]
        assert again(recovery, kind) == (["b"] if n == n_alone else [])
    assert recovery.due(0.0) == ["a"] if kind is Kind.CRASH else ["c"]


def test_two_that_have_not_proven_themselves_are_tried_apart() -> None:
    """Whose trial took longer than it may runs on beside the next: then nobody is to blame, and trials take longer,
    until one is alone."""
    recovery = running("slow", "b")
    again(recovery, Kind.CRASH)
    for patience in (1, 2, 4, 8, 8):
        assert recovery.due(0.0) == ["slow"]
        assert recovery.due(TRIAL_S * patience) == ["b"]
        assert again(recovery, Kind.CRASH) == []
    assert recovery.due(0.0) == ["slow"]
    assert recovery.due(TRIAL_S * MOST_PATIENCE - 0.1) == []
    assert again(recovery, Kind.CRASH) == ["slow"]
    assert recovery.due(0.0) == ["b"]


def test_a_token_clears_of_all_that_was() -> None:
    """Trials that failed count no more, however many follow later."""
    recovery = running("a", "b")
    for _ in range(10):
        again(recovery, Kind.HANG)
        assert recovery.due(0.0) == ["a", "b"]
        recovery.proves("b")
        again(recovery, Kind.HANG)
        assert recovery.due(0.0) == ["a"]
        assert again(recovery, Kind.HANG) == []
        assert recovery.due(0.0) == ["a"]
        recovery.proves("a")
        assert recovery.due(0.0) == ["b"]
        recovery.proves("b")


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 16), kills=st.lists(st.integers(0, 60), max_size=12), kind=st.sampled_from(list(Kind)))
def test_kills_from_outside_end_nobody(n: int, kills: list[int], kind: Kind) -> None:
    """Whenever they come, in the middle of trials that follow whatever other death."""
    recovery = running(*[f"r{i}" for i in range(n)])
    assert again(recovery, kind) == []
    engine: list[str] = []
    for n_tokens in kills:
        for _ in range(n_tokens):
            engine += recovery.due(0.0)
            assert engine
            recovery.proves(engine[_ % len(engine)])
        assert again(recovery, Kind.OUTSIDE) == []
        engine = []


def test_text_that_kills_the_tokenizer_is_suspect() -> None:
    """Whatever was sent and not taken yet may have been what the engine was at."""
    recovery = running()
    recovery.add("a")
    recovery.due(0.0)
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["a"]
    assert recovery.down(Kind.CRASH) == ["a"]


def test_a_suspect_that_was_taken_and_has_not_begun_is_to_blame() -> None:
    """Between the engine's word that it has it and that it computes it there is work, too: its grammar, its sampler."""
    recovery = running("poison", "b")
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["poison"]
    recovery.waits("poison")
    assert again(recovery, Kind.CRASH) == ["poison"]


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 12), n_poison=st.integers(0, 3), seed=st.integers(0, 2**16), kind=st.sampled_from(list(TRIALS)))
def test_neighbours_survive(n: int, n_poison: int, seed: int, kind: Kind) -> None:
    """Whichever requests end the engine, in whichever way, at whichever token: they alone fail, after as many deaths as
    it takes, and all others come to their end."""
    rng = random.Random(seed)
    ids = [f"r{i}" for i in range(n)]
    poison = {id: rng.randrange(1, 4) for id in rng.sample(ids, min(n, n_poison))}
    words = dict.fromkeys(ids, 0)
    recovery = Recovery()
    for id in ids:
        recovery.add(id)
    recovery.up()
    engine: list[str] = []
    ended: set[str] = set()
    failed: set[str] = set()
    n_deaths, now = 0, 0.0
    while len(ended) + len(failed) < n:
        engine += recovery.due(now)
        assert engine, "somebody is always due"
        now += 0.01
        id = rng.choice(engine)
        recovery.waits(id)
        recovery.starts(id)
        if words[id] + 1 >= poison.get(id, 99):
            n_deaths += 1
            failed |= set(again(recovery, kind))
            engine = []
            continue
        words[id] += 1
        recovery.proves(id)
        if words[id] == 5:
            engine.remove(id)
            ended.add(id)
            recovery.end(id)
    assert failed == set(poison)
    assert n_deaths <= (TRIALS[kind] + 2) * len(poison)
