"""Which streams are sent to the next engine after a death, in what order, and which fail."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.protocol.deaths import Kind
from service.streams.recovery import MOST_PATIENCE, TRIAL_S, TRIALS, Recovery


def running(*ids: str) -> Recovery:
    """An engine at work on these requests, each of which has generated a token."""
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
    """The engine dies, and the next one is up; the requests that are to fail have ended."""
    doomed = recovery.down(kind)
    for id in doomed:
        recovery.end(id)
    recovery.up()
    return doomed


def test_new_ones_are_due_at_once() -> None:
    """Each is due once, while the engine is up."""
    recovery = running("a")
    recovery.add("b")
    assert (recovery.due(0.0), recovery.due(0.0)) == (["b"], [])
    recovery.down(Kind.CRASH)
    recovery.add("c")
    assert recovery.due(0.0) == []


def test_suspects_return_one_by_one_then_all_others() -> None:
    """The next follows a token or the end of the one before; waiting and new requests come last, together."""
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
    """A suspect that reports nothing, whatever the reason, delays the others no longer than its trial."""
    recovery = running("silent", "a")
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["silent"]
    assert recovery.due(TRIAL_S - 0.1) == []
    assert recovery.due(TRIAL_S) == ["a"]
    recovery.add("new")
    assert recovery.due(2 * TRIAL_S - 0.1) == []
    assert recovery.due(2 * TRIAL_S) == ["new"]


@pytest.mark.parametrize("kind", Kind)
def test_the_first_death_fails_no_request(kind: Kind) -> None:
    """This holds for every kind of death, and for any number of running requests."""
    for ids in (["a"], ["a", "b", "c"]):
        assert running(*ids).down(kind) == []


@pytest.mark.parametrize("kind", [Kind.OUTSIDE, Kind.LOADING])
def test_an_external_death_makes_no_request_suspect(kind: Kind) -> None:
    """After an external kill or a failed load all are due at once, however often it happens."""
    recovery = running("a", "b")
    for _ in range(10):
        assert again(recovery, kind) == []
        assert recovery.due(0.0) == ["a", "b"]


@pytest.mark.parametrize("kind", [Kind.HANG, Kind.OWN])
def test_requests_with_tokens_are_not_suspect_of_a_hang(kind: Kind) -> None:
    """The first hang may have had an external cause; requests without progress since then are tried one by one."""
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
def test_a_request_alone_on_trial_is_to_blame(kind: Kind) -> None:
    """It fails after as many trials as the kind of death requires. A death next to requests that have passed decides
    which is tried first, and these return."""
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


def test_two_unproven_requests_are_tried_separately() -> None:
    """A request that exceeds its trial's time keeps running with the next: then none is to blame, and trials last
    longer, until one is alone."""
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


def test_a_token_clears_a_request() -> None:
    """Failed trials before it no longer count, however many follow."""
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
def test_external_kills_fail_no_request(n: int, kills: list[int], kind: Kind) -> None:
    """Whenever they occur, also during trials after any other death."""
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
    """A request that was sent and not admitted yet may have been what the engine was processing."""
    recovery = running()
    recovery.add("a")
    recovery.due(0.0)
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["a"]
    assert recovery.down(Kind.CRASH) == ["a"]


def test_an_admitted_suspect_that_has_not_started_is_to_blame() -> None:
    """Between admission and prefill the engine already works on it: its grammar, its sampler."""
    recovery = running("poison", "b")
    again(recovery, Kind.CRASH)
    assert recovery.due(0.0) == ["poison"]
    recovery.waits("poison")
    assert again(recovery, Kind.CRASH) == ["poison"]


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 12), n_poison=st.integers(0, 3), seed=st.integers(0, 2**16), kind=st.sampled_from(list(TRIALS)))
def test_other_requests_survive(n: int, n_poison: int, seed: int, kind: Kind) -> None:
    """Whichever requests kill the engine, in whatever way, at whatever token: only they fail, after no more deaths than
    needed, and all others end normally."""
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
        assert engine, "some request is always due"
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
