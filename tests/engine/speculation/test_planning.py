"""How many draft tokens are planned for given chances and costs, and how both are learnt."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.speculation.costs import DecodeCost
from service.engine.speculation.guesses import FIRST_CHANCE, DraftStats
from service.engine.speculation.planning import MAX_DRAFTS, MIN_GAIN, plan


def costs_of(*seconds: float) -> DecodeCost:
    """Of 1, 2, 3, ... rows."""
    costs = DecodeCost()
    for n, s in enumerate(seconds, 1):
        costs.observe(n, s)
    return costs


LINEAR = costs_of(*(n * 0.02 for n in range(1, 65)))
FLAT = costs_of(*[0.02] * 64)
FOURS = costs_of(*(0.02 * (0.3 + 1.1 * (n // 4) + 0.7 * (n % 4)) for n in range(1, 65)))  # about as measured


def score(costs: DecodeCost, chances: list[float], counts: list[int]) -> float:
    """The logarithm of the product of all speeds."""
    n, rows = len(chances), len(chances) + sum(counts)
    speeds = [sum(c**j for j in range(k + 1)) for c, k in zip(chances, counts, strict=True)]
    return math.fsum(map(math.log, speeds)) - n * math.log(costs.of(rows))


# --- the plan


def test_no_drafts_if_each_row_costs_the_same() -> None:
    """Even a certain draft gains only as much as it costs; and no stream is slowed down for another."""
    assert plan(LINEAR, [1.0], [8], 60) == [0]
    assert plan(LINEAR, [0.99, 0.0, 0.0], [8, 0, 0], 60) == [0, 0, 0]


def test_all_drafts_if_rows_are_free() -> None:
    """As many as there are, for all; as many as there is room for, the likelier first."""
    assert plan(FLAT, [0.9, 0.5], [5, 3], 60) == [5, 3]
    assert plan(FLAT, [0.5, 0.9], [5, 5], 4) == [1, 3]
    assert plan(FLAT, [0.9], [5], 0) == [0]


def test_steps_of_four() -> None:
    """Rows are filled up to four if four cost less than three, with drafts as long as there are any."""
    assert plan(FOURS, [0.5], [8], 60) == [3]
    assert plan(FOURS, [0.1], [8], 60) == [0]
    assert plan(FOURS, [0.5, 0.1, 0.1], [4, 4, 4], 60) == [1, 0, 0]
    assert plan(FOURS, [0.0] * 3, [0] * 3, 60) == [0, 0, 1]
    assert plan(FOURS, [0.0] * 2, [0] * 2, 60) == [0, 2]
    assert plan(FOURS, [0.0] * 2, [0] * 2, 1) == [0, 0]
    assert plan(FOURS, [0.0] * 4, [0] * 4, 60) == [0] * 4


def test_others_are_not_slowed_down_for_one() -> None:
    """With seven others without accepted drafts, a stream gets rows that cost these less than it gains."""
    assert plan(FOURS, [0.97], [15], 60) == [7]
    assert plan(FOURS, [0.97, *[0.0] * 7], [15, *[0] * 7], 55) == [0] * 8


chances = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3)


@given(chances, st.sampled_from([LINEAR, FLAT, FOURS]), st.integers(0, 7))
def test_no_other_plan_is_better(chances: list[float], costs: DecodeCost, n_more: int) -> None:
    """Of all ways to distribute up to three drafts each none is faster by more than may be noise."""
    n, planned = len(chances), plan(costs, chances, [3] * len(chances), n_more)
    assert sum(planned) <= n_more
    all_counts = [c for c in itertools.product(range(4), repeat=n) if sum(c) <= n_more]
    best = max(score(costs, chances, list(counts)) for counts in all_counts)
    guesses = [min(count, 3) for count in planned]  # what is beyond brings nothing
    reached = score(costs, chances, guesses) + n * math.log(costs.of(n + sum(guesses)) / costs.of(n + sum(planned)))
    assert reached >= best - n * math.log(MIN_GAIN) - 0.03 * n


def test_no_drafts_if_planning_costs_more() -> None:
    """Not for decodes of less than 2 ms, without sequences, or before any measurement."""
    assert plan(costs_of(0.001, 0.001, 0.001, 0.001), [0.9], [8], 60) == [0]
    assert plan(FLAT, [], [], 60) == []
    assert plan(DecodeCost(), [0.9], [8], 60) == [0]


# --- speeds


def test_costs_are_interpolated() -> None:
    """Between two measured numbers of rows in proportion, beyond the last as between the last two, with one known
    alike."""
    costs = DecodeCost()
    costs.observe(1, 0.010)
    assert costs.of(3) == pytest.approx(0.030)
    costs.observe(4, 0.016)
    costs.observe(8, 0.032)
    assert [costs.of(n) for n in (1, 2, 4, 6, 8, 16)] == pytest.approx([0.010, 0.012, 0.016, 0.024, 0.032, 0.064])


def test_a_busier_machine_makes_all_slower() -> None:
    """A change that one number of rows shows applies to all: none is avoided because it was measured then."""
    costs = costs_of(0.02, 0.03, 0.04, 0.025)
    for _ in range(30):
        costs.observe(1, 0.04)
    assert [costs.of(n) for n in (1, 2, 3, 4)] == pytest.approx([0.04, 0.06, 0.08, 0.05], rel=0.35)
    assert costs.of(1) == pytest.approx(0.04, rel=0.05)
    assert costs.of(4) < costs.of(2) < costs.of(3)


def test_a_pause_changes_little() -> None:
    """One decode that took a hundred times as long does not change plans."""
    costs = costs_of(0.02, 0.03, 0.04, 0.025)
    costs.observe(4, 2.5)
    assert costs.of(4) == pytest.approx(0.025, rel=0.4) and costs.of(4) / costs.of(1) == pytest.approx(1.25, rel=0.1)


def test_nothing_is_cheaper_than_one_row() -> None:
    """Otherwise, if a pause hit its measurement, a lone stream without drafts would be filled up for ever."""
    costs = costs_of(0.05, 0.034, 0.048, 0.026)
    assert [costs.of(n) for n in (1, 2, 4)] == pytest.approx([0.026, 0.034, 0.026])
    assert plan(costs, [0.0], [0], 60) == [0]


def test_an_underestimated_cost_is_learnt() -> None:
    """Three rows, estimated as the middle between two and four, turn out expensive and are so from then on."""
    costs = DecodeCost()
    for n, s in ((1, 0.02), (2, 0.034), (4, 0.026)):
        costs.observe(n, s)
    assert costs.of(3) == pytest.approx(0.03)
    costs.observe(3, 0.048)
    assert costs.of(3) == pytest.approx(0.048)


# --- any measurements


anything = st.one_of(
    st.floats(), st.floats(0.0, 1e-6), st.floats(0.001, 10.0), st.sampled_from([0.0, 5e-324, math.inf])
)
observed = st.lists(st.tuples(st.integers(1, 64), anything), max_size=60)


@given(observed, st.lists(st.floats(0.0, 1.0), max_size=40), st.integers(0, 60))
def test_no_measurement_stops_it(seen: list[tuple[int, float]], chances: list[float], n_more: int) -> None:
    """Zero, infinite and negative values, NaN, or none at all: costs are finite and positive, and plans are made."""
    costs = DecodeCost()
    for n_rows, seconds in seen:
        costs.observe(n_rows, seconds)
    assert all(0 < costs.of(n) < math.inf for n in (*range(1, 70), 1000, 10**9))
    n = len(chances)
    counts = plan(costs, chances, [8] * n, n_more, min_seconds=0.0)
    assert len(counts) == n and 0 <= sum(counts) <= n_more


@given(st.sampled_from([1, 2, 4, 8]), st.floats(1e-12, 1e6), st.integers(1, 8))
def test_bad_measurements_are_forgotten(n_rows: int, wrong: float, n_others: int) -> None:
    """However wrong the first measurement, of any number of rows, a hundred right ones replace it; also if all were
    wrong."""
    costs, true = DecodeCost(), {1: 0.02, 2: 0.034, 4: 0.028, 8: 0.05}
    for n, seconds in true.items():
        costs.observe(n, wrong if n == n_rows or n > n_others else seconds)
    for _ in range(100):
        costs.observe(n_rows, true[n_rows])
    assert costs.of(n_rows) == pytest.approx(true[n_rows], rel=0.01)


def decodes(costs: DecodeCost, true: DecodeCost, n_streams: int, n: int) -> list[int]:
    """The rows of n decodes, as planned, each of which takes its true time."""
    rows = []
    for _ in range(n):
        planned = plan(costs, [0.9] * n_streams, [8] * n_streams, 60)
        rows.append(n_streams + sum(planned))
        costs.observe(rows[-1], true.of(rows[-1]))
    return rows


MEASURED = (1, 4, 8, 2, 3, 16)
WRONG = [{1: 2.0}, {4: 2.0}, dict.fromkeys(MEASURED[1:], 2.0), {1: 2e-6}, {4: 2e-6}]


@pytest.mark.parametrize(("wrong", "n_streams"), [*((wrong, 1) for wrong in WRONG), (WRONG[2], 3)])
def test_plans_recover(wrong: dict[int, float], n_streams: int) -> None:
    """A first measurement that another process made a hundred times too long, or one that is too short, is not trusted
    for ever: in the end plans are as fast as with good measurements."""
    well, badly = DecodeCost(), DecodeCost()
    for n in MEASURED:
        well.observe(n, FOURS.of(n))
        badly.observe(n, wrong.get(n, FOURS.of(n)))

    def speed(costs: DecodeCost) -> float:
        ((n_rows, _),) = Counter(decodes(costs, FOURS, n_streams, 100)).most_common(1)
        each, more = divmod(n_rows - n_streams, n_streams)
        return score(FOURS, [0.9] * n_streams, [each + (i < more) for i in range(n_streams)])

    decodes(badly, FOURS, n_streams, 6000)
    assert speed(badly) >= speed(well) - n_streams * math.log(MIN_GAIN)


@pytest.mark.parametrize("dear", [2, 10, 100, 10_000])
def test_an_overestimated_row_does_not_change_the_others(dear: float) -> None:
    """Other numbers of rows, observed ever after and each cheaper than it, keep their costs: those between them would
    otherwise be multiplied at each observation, up to infinity, and the next measurement would divide by zero."""
    rng, costs = random.Random(1), DecodeCost()

    def true(n_rows: int) -> float:
        return 0.003 * (1 + n_rows / 8)

    for n in MEASURED:
        costs.observe(n, true(n) * (dear if n == 1 else 1))
    for _ in range(3000):
        n = rng.randint(2, 30)
        costs.observe(n, true(n) * rng.uniform(0.9, 1.1))
    assert [costs.of(n) for n in range(2, 31)] == pytest.approx([true(n) for n in range(2, 31)], rel=0.2)


def test_expensive_plans_are_tried_seldom() -> None:
    """Less than one decode in a hundred goes to numbers of rows that turn out no better than the known one."""
    costs = costs_of(*(FOURS.of(n) for n in range(1, 17)))
    rows = Counter(decodes(costs, FOURS, 1, 20_000))
    assert rows.most_common(1)[0][1] > 0.99 * 20_000


# --- chances


def test_accepted_drafts_raise_the_chance() -> None:
    """Each token that equals its draft raises the chance, the first that does not lowers it, decoded or not."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4, 5, 1, 2, 3]
    assert guesses.look(tokens) == ([4, 5, 1, 2, 3] * 3, FIRST_CHANCE[3])
    guessed, risen = guesses.look([*tokens, 4])
    assert guessed[:3] == [5, 1, 2] and risen > FIRST_CHANCE[3]
    _, much = guesses.look([*tokens, 4, 5, 1, 2, 3])
    assert much > risen
    guesses.look([*tokens, 4, 5, 1, 2, 3, 9, 9, 9])
    _, fallen = guesses.look([*tokens, 4, 5, 1, 2, 3, 9, 9, 9, 1, 2, 3])
    assert risen < fallen < much


def test_matches_of_two_tokens_have_their_own_chance() -> None:
    """Drafts after a match of two tokens have a chance of their own."""
    guesses = DraftStats()
    assert guesses.look([7, 2, 3, 4, 1, 2, 3])[1] == FIRST_CHANCE[2]
    assert guesses.look([7, 2, 3, 4, 1, 2, 3, 4])[1] == FIRST_CHANCE[3]


def test_looking_twice_counts_once() -> None:
    """A sequence that waits between two lookups has not failed."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4, 1, 2, 3]
    assert guesses.look(tokens) == guesses.look(tokens)


def test_repetitive_text_gets_all_drafts() -> None:
    """After some dozen accepted drafts a plan has as many as a decode takes, if rows are nearly free."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4] * 8
    for _ in range(20):
        guessed, chance = guesses.look(tokens)
        tokens += guessed[: 1 + plan(FLAT, [chance], [len(guessed)], 60)[0]]
    assert plan(FLAT, [chance], [len(guessed)], 60) == [MAX_DRAFTS] and chance > 0.95


def test_an_end_and_a_limit() -> None:
    """No end token is proposed, and no more tokens than requested."""
    assert DraftStats([4]).look([1, 2, 3, 4, 1, 2, 3])[0] == []
    assert DraftStats().look([1, 2, 3, 4, 1, 2, 3], 2)[0] == [4, 1]
    assert DraftStats().look([1, 2, 3], 5) == ([], 0.0)
