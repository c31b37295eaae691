"""Who goes back to an engine that died, in what order, and who does not."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from service.recovery import MAX_DEATHS, Recovery


def running(*ids: str) -> Recovery:
    """An engine at work on these."""
    recovery = Recovery()
    recovery.up()
    for id in ids:
        recovery.add(id)
    assert recovery.due() == list(ids)
    for id in ids:
        recovery.waits(id)
        recovery.starts(id)
        recovery.speaks(id)
    return recovery


def test_new_ones_are_due_at_once() -> None:
    """Each once, while the engine is up."""
    recovery = running("a")
    recovery.add("b")
    assert (recovery.due(), recovery.due()) == (["b"], [])
    recovery.down()
    recovery.add("c")
    assert recovery.due() == []


def test_suspects_come_back_one_by_one_then_all_others() -> None:
    """The next follows a word or the end of the one before; who only waited, and who is new, come last, together."""
    recovery = running("a", "b", "c")
    for id in ("waits", "waits too"):
        recovery.add(id)
    recovery.due()
    recovery.waits("waits")
    recovery.waits("waits too")
    assert recovery.down() == []
    recovery.up()
    recovery.add("new")
    assert (recovery.due(), recovery.due()) == (["a"], [])
    recovery.waits("a")
    recovery.starts("a")
    assert recovery.due() == []
    recovery.speaks("a")
    assert recovery.due() == ["b"]
    recovery.end("b")
    assert recovery.due() == ["c"]
    recovery.speaks("c")
    assert recovery.due() == ["waits", "waits too", "new"]


def test_only_the_one_on_trial_is_to_blame() -> None:
    """Those that have passed run beside it, and come back."""
    recovery = running("a", "b", "c")
    recovery.down()
    recovery.up()
    recovery.due()
    recovery.speaks("a")
    assert recovery.due() == ["b"]
    assert recovery.down() == ["b"]
    recovery.end("b")
    recovery.up()
    assert recovery.due() == ["a"]
    recovery.speaks("a")
    assert recovery.due() == ["c"]


def test_the_engines_own_death_blames_nobody() -> None:
    """It died while it loaded, or with nothing to do."""
    recovery = running("a")
    recovery.down()
    for _ in range(5):
        assert recovery.down() == []
    recovery.up()
    assert recovery.due() == ["a"]


def test_text_that_kills_the_tokenizer_is_suspect() -> None:
    """Whatever was sent and not taken yet may have been what the engine was at."""
    recovery = running()
    recovery.add("a")
    recovery.due()
    recovery.down()
    recovery.up()
    assert recovery.due() == ["a"]
    assert recovery.down() == ["a"]


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 12), n_poison=st.integers(0, 3), seed=st.integers(0, 2**16))
def test_neighbours_survive(n: int, n_poison: int, seed: int) -> None:
    """Whichever requests kill the engine, at whichever word: they alone fail, after two deaths each at the most but
    one that they share, and all others come to their end."""
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
    n_deaths = 0
    while len(ended) + len(failed) < n:
        engine += recovery.due()
        assert engine, "somebody is always due"
        id = rng.choice(engine)
        recovery.waits(id)
        recovery.starts(id)
        if words[id] + 1 >= poison.get(id, 99):
            n_deaths += 1
            for doomed in recovery.down():
                failed.add(doomed)
                recovery.end(doomed)
            engine = []
            recovery.up()
            continue
        words[id] += 1
        recovery.speaks(id)
        if words[id] == 5:
            engine.remove(id)
            ended.add(id)
            recovery.end(id)
    assert n_deaths <= MAX_DEATHS * max(1, n_poison) + 1
    if n_poison <= 1:
        assert failed == set(poison)
