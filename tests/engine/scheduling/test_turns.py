"""turns.py: short prompts do not wait for long ones, nor long ones for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.fairness import FairShareCounter
from service.engine.scheduling.turns import Turns
from service.engine.sequences.sequence import Sequence
from service.engine.sequences.text import Text


def sequence(id: str, n_prompt: int, tenant: str = "") -> Sequence:
    return Sequence(id=id, tokens=[1] * n_prompt, n_prompt=n_prompt, max_tokens=1, text=Text(), tenant=tenant)


def test_alternately_the_shortest_and_the_oldest() -> None:
    """The rest of the prompt counts, not its whole length."""
    turns = Turns(FairShareCounter())
    long, middle, short = sequence("long", 100), sequence("middle", 50), sequence("short", 10)
    middle.n_past = 45
    assert turns.order([long, short, middle]) == [middle, short, long]
    turns.pass_on()
    assert turns.order([long, short, middle]) == [long, short, middle]
    turns.pass_on()
    assert repr(turns) == "<Turns shortest first>"


def test_the_least_served_tenant_comes_before_the_shortest() -> None:
    """A tenant's turn does not depend on the length of its prompts."""
    served = FairShareCounter()
    served.charge("a", 1)
    turns = Turns(served)
    long, short = sequence("long", 100, "b"), sequence("short", 10, "a")
    assert turns.order([short, long]) == [long, short]
    turns.pass_on()
    assert turns.order([short, long]) == [long, short]


def prefill(turns: Turns, reading: list[Sequence], n_slice: int) -> None:
    """One step's chunk; prompts that are complete leave."""
    room = n_slice
    for s in turns.order(reading):
        n = min(room, s.n_pending)
        s.n_past, room = s.n_past + n, room - n
    turns.pass_on()
    reading[:] = [s for s in reading if s.n_pending]


SLICES = st.integers(1, 32)


@given(n_long=st.integers(20, 400), n_short=st.integers(1, 60), n_slice=SLICES)
def test_a_long_prompt_is_prefilled_despite_any_number_of_short_ones(n_long: int, n_short: int, n_slice: int) -> None:
    """In at most twice its own chunks, though a new one arrives with each step."""
    turns, long = Turns(FairShareCounter()), sequence("long", n_long)
    reading, n_steps = [long], 0
    while long in reading:
        reading.append(sequence("short", n_short))
        prefill(turns, reading, n_slice)
        n_steps += 1
    assert n_steps <= 2 * -(-n_long // n_slice)


@given(n_before=st.integers(0, 5), n_short=st.integers(1, 60), n_slice=SLICES)
def test_a_short_prompt_is_prefilled_despite_a_long_one(n_before: int, n_short: int, n_slice: int) -> None:
    """In at most twice its own chunks and one more, whenever it arrives."""
    turns, short = Turns(FairShareCounter()), sequence("short", n_short)
    reading, n_steps = [sequence("long", 10_000)], 0
    for _ in range(n_before):
        prefill(turns, reading, n_slice)
    reading.append(short)
    while short in reading:
        prefill(turns, reading, n_slice)
        n_steps += 1
    assert n_steps <= 2 * -(-n_short // n_slice) + 1
