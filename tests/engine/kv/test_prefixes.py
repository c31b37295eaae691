"""prefixes.py: what a prompt can share in each kind of memory, with which source, and which prefixes are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.kv.memory import Memory
from service.engine.kv.prefixes import WORTH, Kept, Match, Prefixes, n_common
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text

STEM = list(range(1000))
CUTTABLE, WINDOWED, STATE = Memory.CUTTABLE, Memory.WINDOWED, Memory.STATE


def prompt(
    n_stem: int, n_own: int = 20, *, own: int = 1, seq_id: int = -1, n_past: int = 0, scope: str = ""
) -> Sequence:
    """The first n_stem tokens of the stem, then n_own that are not shared."""
    tokens = STEM[:n_stem] + [-own] * n_own
    return Sequence(
        id="", tokens=tokens, n_prompt=len(tokens), max_tokens=9, text=Text(), seq_id=seq_id, n_past=n_past, scope=scope
    )


def kept(n_stem: int, n_own: int = 0, *, own: int = 2, scope: str = "", seq_id: int = 0) -> Kept:
    return Kept(seq_id, prompt(n_stem, n_own, own=own).tokens, scope)


def found(prefixes: Prefixes, sequence: Sequence, *running: Sequence) -> tuple[int, bool, int]:
    """(tokens in common with the source, 0: there is none; whether they are ready; the boundary)."""
    match, boundary = prefixes.find(sequence, running)
    return (match.n, match.ready, boundary) if match else (0, False, boundary)


@given(
    a=st.lists(st.integers(0, 1), max_size=4),
    b=st.lists(st.integers(0, 1), max_size=4),
    n=st.sampled_from([0, 1, 254, 255, 256, 257, 511, 512, 513, 700]),
)
def test_the_longest_common_prefix(a: list[int], b: list[int], n: int) -> None:
    """It is as long as a token-by-token comparison finds."""
    a, b = STEM[:n] + a, STEM[:n] + b
    naive = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert n_common(a, b) == naive == n_common(b, a)


# --- what can be shared


@pytest.mark.parametrize(
    ("memory", "has_window", "expected"),
    [
        (CUTTABLE, False, (60, True, 0)),
        (WINDOWED, True, (60, True, 0)),
        (WINDOWED, False, (0, False, 60)),
        (STATE, True, (0, False, 60)),
    ],
)
@pytest.mark.parametrize("is_kept", [True, False])
def test_sharing_a_part_of_a_source(
    memory: Memory, has_window: bool, expected: tuple[int, bool, int], is_kept: bool
) -> None:
    """A cuttable cache can be cut anywhere, a windowed one where its window is whole, a state never: there a copy is
    left for the next prompt."""
    asked: list[tuple[int, int]] = []
    prefixes = Prefixes(memory, lambda seq_id, n: asked.append((seq_id, n)) or has_window)  # type: ignore[func-returns-value]
    source = kept(60, 40, seq_id=7) if is_kept else prompt(60, 40, own=2, seq_id=7, n_past=90)
    if isinstance(source, Kept):
        prefixes.keep(source)
    assert found(prefixes, prompt(60), *([] if isinstance(source, Kept) else [source])) == expected
    assert asked == ([(7, 60)] if memory is WINDOWED else [])


@pytest.mark.parametrize("memory", Memory)
def test_sharing_all_of_a_source(memory: Memory) -> None:
    """At a source's end everything can be shared, in every kind of memory."""
    prefixes = Prefixes(memory, lambda seq_id, n: False)
    prefixes.keep(kept(60))
    assert found(prefixes, prompt(60)) == (60, True, 0)
    assert found(prefixes, prompt(100)) == (60, True, 0)


@pytest.mark.parametrize("memory", Memory)
def test_the_last_token_is_always_computed(memory: Memory) -> None:
    """A prompt known in full lacks the logits after it: at most all but its last token is shared."""
    prefixes = Prefixes(memory, lambda seq_id, n: True)
    prefixes.keep(kept(60))
    assert found(prefixes, prompt(60, 0)) == ((0, False, 59) if memory is STATE else (59, True, 0))


@pytest.mark.parametrize("memory", Memory)
def test_a_source_that_is_being_prefilled(memory: Memory) -> None:
    """It is waited for if that saves WORTH tokens; otherwise the part that is prefilled is shared at once."""
    prefixes = Prefixes(memory, lambda seq_id, n: False)
    at = 60 - WORTH
    assert found(prefixes, prompt(60), prompt(60, own=2, seq_id=1, n_past=at)) == (60, False, 0)
    assert found(prefixes, prompt(60), prompt(60, own=2, seq_id=1, n_past=at + 1)) == (at + 1, True, 0)
    assert found(prefixes, prompt(60), prompt(60, own=2, seq_id=1, n_past=0)) == (60, False, 0)
    assert found(prefixes, prompt(WORTH - 1), prompt(WORTH - 1, own=2, seq_id=1)) == (0, False, 0)


def test_the_best_of_several_sources() -> None:
    """The longest prefix that is ready, or a longer one to wait for; the match names its source."""
    prefixes = Prefixes(CUTTABLE)
    short, long = kept(40, 5), kept(80, 5)
    running = prompt(200, own=3, seq_id=1, n_past=50)
    for one in (long, short):
        prefixes.keep(one)
    assert prefixes.find(prompt(60), []) == (Match(long, 60, True), 0)
    assert prefixes.find(prompt(200), []) == (Match(long, 80, True), 0)
    assert prefixes.find(prompt(200), [running]) == (Match(running, 200, False), 0)
    assert prefixes.find(prompt(90), [running]) == (Match(long, 80, True), 0)


def test_a_boundary_is_left_where_it_saves_enough() -> None:
    """A copy for other prompts is left if it saves them WORTH tokens."""
    prefixes = Prefixes(STATE)
    prefixes.keep(kept(60))
    prefixes.keep(kept(100, 5))
    assert found(prefixes, prompt(60 + WORTH - 1)) == (60, True, 0)
    assert found(prefixes, prompt(60 + WORTH)) == (60, True, 60 + WORTH)


def test_a_window_that_does_not_exist_yet_is_not_queried() -> None:
    """A sequence with cells that are only planned has no window to query, but can be shared at its current end."""
    prefixes = Prefixes(WINDOWED, lambda seq_id, n: seq_id != 3)
    prefixes.fresh.add(3)
    source = prompt(60, 40, own=2, seq_id=3, n_past=90)
    assert found(prefixes, prompt(60), source) == (0, False, 60)
    source.n_past = 50
    assert found(prefixes, prompt(60), source) == (50, True, 0)


def test_scopes_do_not_mix() -> None:
    """Neither a kept prefix nor a running sequence of another scope is a source, and none causes a boundary."""
    for memory in Memory:
        prefixes = Prefixes(memory)
        prefixes.keep(kept(60, 5, scope="a"))
        running = prompt(60, seq_id=1, n_past=60, scope="a")
        assert found(prefixes, prompt(60, own=3, scope="b"), running) == (0, False, 0)
        assert found(prefixes, prompt(60, own=3, scope="a"), running) == (60, True, 0)


def test_a_sequence_without_cells_is_no_source() -> None:
    """A sequence without an id is never waited for."""
    assert found(Prefixes(CUTTABLE), prompt(60), prompt(60, own=2)) == (0, False, 0)


# --- what is kept


def test_prefixes_of_others_are_superfluous() -> None:
    """Where any prefix can be shared, the longer one is enough, whichever came first."""
    prefixes = Prefixes(CUTTABLE)
    short, other, long = kept(50), kept(40, 1), kept(60)
    assert [prefixes.keep(one) for one in (short, other, long)] == [[], [], [short]]
    assert prefixes.keep(again := kept(50)) == [again]
    assert prefixes.kept == [other, long]


def test_prefixes_of_others_are_kept_where_they_are_needed() -> None:
    """Where a sequence can't be cut, only an identical one is superfluous."""
    prefixes = Prefixes(STATE)
    short, long = kept(50), kept(60)
    assert [prefixes.keep(one) for one in (short, long)] == [[], []]
    assert prefixes.keep(again := kept(50)) == [again]
    assert prefixes.kept == [long, short]


@pytest.mark.parametrize("memory", Memory)
def test_each_scope_keeps_its_own(memory: Memory) -> None:
    """The same tokens in two scopes are both kept."""
    prefixes = Prefixes(memory)
    assert [prefixes.keep(kept(50, scope=scope)) for scope in "abb"][:2] == [[], []]
    assert [k.scope for k in prefixes.kept] == ["a", "b"]


def test_the_least_recently_used_goes_first() -> None:
    """Use is being kept, matched or found again."""
    prefixes = Prefixes(CUTTABLE)
    a, b, c = (kept(50, 5, own=own) for own in (1, 2, 3))
    for one in (a, b, c):
        prefixes.keep(one)
    prefixes.touch(a)
    prefixes.touch(prompt(50))  # a running sequence is not among them
    prefixes.keep(kept(50, 4, own=2))
    assert [prefixes.evict() for _ in range(4)] == [c, a, b, None]
