"""How many drafts are planned for given chances and speeds, and how both are learnt."""

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


def test_where_each_row_costs_the_same_none_is_planned() -> None:
    """A draft that is sure gains as much as it costs: nothing; and no stream is slowed down for another."""
    assert plan(LINEAR, [1.0], [8], 60) == [0]
    assert plan(LINEAR, [0.99, 0.0, 0.0], [8, 0, 0], 60) == [0, 0, 0]


def test_where_rows_are_free_all_are_planned() -> None:
    """As many as there are guesses, for all; as many as there is room for, the likelier first."""
    assert plan(FLAT, [0.9, 0.5], [5, 3], 60) == [5, 3]
    assert plan(FLAT, [0.5, 0.9], [5, 5], 4) == [1, 3]
    assert plan(FLAT, [0.9], [5], 0) == [0]


def test_steps_of_four() -> None:
    """Rows are filled up to four where four cost less than three, with guesses as long as there are any."""
    assert plan(FOURS, [0.5], [8], 60) == [3]
    assert plan(FOURS, [0.1], [8], 60) == [0]
    assert plan(FOURS, [0.5, 0.1, 0.1], [4, 4, 4], 60) == [1, 0, 0]
    assert plan(FOURS, [0.0] * 3, [0] * 3, 60) == [0, 0, 1]
    assert plan(FOURS, [0.0] * 2, [0] * 2, 60) == [0, 2]
    assert plan(FOURS, [0.0] * 2, [0] * 2, 1) == [0, 0]
    assert plan(FOURS, [0.0] * 4, [0] * 4, 60) == [0] * 4


def test_others_are_not_slowed_down_for_one() -> None:
    """With seven others whose guesses fail a stream gets the rows that cost them less than they bring it."""
    assert plan(FOURS, [0.97], [15], 60) == [7]
    assert plan(FOURS, [0.97, *[0.0] * 7], [15, *[0] * 7], 55) == [0] * 8


chances = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3)


@given(chances, st.sampled_from([LINEAR, FLAT, FOURS]), st.integers(0, 7))
def test_no_other_plan_is_better(chances: list[float], costs: DecodeCost, n_more: int) -> None:
    """Of all ways to hand out up to three guesses each none is faster by more than what may be noise."""
    n, planned = len(chances), plan(costs, chances, [3] * len(chances), n_more)
    assert sum(planned) <= n_more
    all_counts = [c for c in itertools.product(range(4), repeat=n) if sum(c) <= n_more]
    best = max(score(costs, chances, list(counts)) for counts in all_counts)
    guesses = [min(count, 3) for count in planned]  # what is beyond brings nothing
    reached = score(costs, chances, guesses) + n * math.log(costs.of(n + sum(guesses)) / costs.of(n + sum(planned)))
    assert reached >= best - n * math.log(MIN_GAIN) - 0.03 * n


def test_nothing_is_planned_where_planning_costs_more() -> None:
    """Not for decodes of less than 2 ms, without sequences, and before anything was measured."""
    assert plan(costs_of(0.001, 0.001, 0.001, 0.001), [0.9], [8], 60) == [0]
    assert plan(FLAT, [], [], 60) == []
    assert plan(DecodeCost(), [0.9], [8], 60) == [0]


# --- speeds


def test_what_was_not_measured_lies_between() -> None:
    """Rows between two known ones cost in proportion, beyond the last as between the last two, with one known alike."""
    costs = DecodeCost()
    costs.observe(1, 0.010)
    assert costs.of(3) == pytest.approx(0.030)
    costs.observe(4, 0.016)
    costs.observe(8, 0.032)
    assert [costs.of(n) for n in (1, 2, 4, 6, 8, 16)] == pytest.approx([0.010, 0.012, 0.016, 0.024, 0.032, 0.064])


def test_a_busier_machine_makes_all_slower() -> None:
    """What one number of rows shows of the machine holds for all: none is shunned for having been measured then."""
    costs = costs_of(0.02, 0.03, 0.04, 0.025)
    for _ in range(30):
        costs.observe(1, 0.04)
    assert [costs.of(n) for n in (1, 2, 3, 4)] == pytest.approx([0.04, 0.06, 0.08, 0.05], rel=0.35)
    assert costs.of(1) == pytest.approx(0.04, rel=0.05)
    assert costs.of(4) < costs.of(2) < costs.of(3)


def test_a_pause_changes_little() -> None:
    """One decode that took a hundred times as long is no reason to change plans."""
    costs = costs_of(0.02, 0.03, 0.04, 0.025)
    costs.observe(4, 2.5)
    assert costs.of(4) == pytest.approx(0.025, rel=0.4) and costs.of(4) / costs.of(1) == pytest.approx(1.25, rel=0.1)


def test_nothing_is_cheaper_than_one_row() -> None:
    """Had a pause hit the one row's measurement, a lone stream without guesses would else be filled up for ever."""
    costs = costs_of(0.05, 0.034, 0.048, 0.026)
    assert [costs.of(n) for n in (1, 2, 4)] == pytest.approx([0.026, 0.034, 0.026])
    assert plan(costs, [0.0], [0], 60) == [0]


def test_one_that_was_thought_cheap_is_learnt() -> None:
    """Three rows, taken for the middle between two and four, turn out dear and are so from then on."""
    costs = DecodeCost()
    for n, s in ((1, 0.02), (2, 0.034), (4, 0.026)):
        costs.observe(n, s)
    assert costs.of(3) == pytest.approx(0.03)
    costs.observe(3, 0.048)
    assert costs.of(3) == pytest.approx(0.048)


# --- whatever is measured


anything = st.one_of(
    st.floats(), st.floats(0.0, 1e-6), st.floats(0.001, 10.0), st.sampled_from([0.0, 5e-324, math.inf])
)
observed = st.lists(st.tuples(st.integers(1, 64), anything), max_size=60)


@given(observed, st.lists(st.floats(0.0, 1.0), max_size=40), st.integers(0, 60))
def test_no_measurement_stops_it(seen: list[tuple[int, float]], chances: list[float], n_more: int) -> None:
    """Zero, infinite, negative and no numbers at all, nothing observed: costs are finite and more than nothing, and
    plans are made."""
    costs = DecodeCost()
    for n_rows, seconds in seen:
        costs.observe(n_rows, seconds)
    assert all(0 < costs.of(n) < math.inf for n in (*range(1, 70), 1000, 10**9))
    n = len(chances)
    counts = plan(costs, chances, [8] * n, n_more, min_seconds=0.0)
    assert len(counts) == n and 0 <= sum(counts) <= n_more


@given(st.sampled_from([1, 2, 4, 8]), st.floats(1e-12, 1e6), st.integers(1, 8))
def test_what_was_measured_badly_is_measured_again(n_rows: int, wrong: float, n_others: int) -> None:
    """However wrong the first measurement, of whatever number of rows, that is forgotten after a hundred right ones;
    and so is it when all were wrong."""
    costs, true = DecodeCost(), {1: 0.02, 2: 0.034, 4: 0.028, 8: 0.05}
    for n, seconds in true.items():
        costs.observe(n, wrong if n == n_rows or n > n_others else seconds)
    for _ in range(100):
        costs.observe(n_rows, true[n_rows])
    assert costs.of(n_rows) == pytest.approx(true[n_rows], rel=0.01)


def decodes(costs: DecodeCost, true: DecodeCost, n_streams: int, n: int) -> list[int]:
    """The rows of n decodes, as planned, each of which takes what it truly does."""
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
    """A first measurement that a neighbour made a hundred times as dear, or too cheap, is not believed for ever: in the
    end what is planned is as fast as where all was measured well."""
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
def test_one_row_that_seemed_dear_does_not_drive_costs_apart(dear: float) -> None:
    """Others that are observed ever after, each cheaper than it, stay what they are: what is between them would else be
    multiplied at each, up to infinity, and what is measured then is nothing, by which is divided."""
    rng, costs = random.Random(1), DecodeCost()

    def true(n_rows: int) -> float:
        return 0.003 * (1 + n_rows / 8)

    for n in MEASURED:
        costs.observe(n, true(n) * (dear if n == 1 else 1))
    for _ in range(3000):
        n = rng.randint(2, 30)
        costs.observe(n, true(n) * rng.uniform(0.9, 1.1))
    assert [costs.of(n) for n in range(2, 31)] == pytest.approx([true(n) for n in range(2, 31)], rel=0.2)


def test_what_is_dear_is_tried_seldom() -> None:
    """Less than one decode in a hundred goes to numbers of rows that turn out no better than was known."""
    costs = costs_of(*(FOURS.of(n) for n in range(1, 17)))
    rows = Counter(decodes(costs, FOURS, 1, 20_000))
    assert rows.most_common(1)[0][1] > 0.99 * 20_000


# --- chances


def test_guesses_that_come_true_are_trusted_more() -> None:
    """Each token that comes as guessed raises the chance, the first that does not lowers it, decoded or not."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4, 5, 1, 2, 3]
    assert guesses.look(tokens) == ([4, 5, 1, 2, 3] * 3, FIRST_CHANCE[3])
    guessed, risen = guesses.look([*tokens, 4])
    assert guessed[:3] == [5, 1, 2] and risen > FIRST_CHANCE[3]
    _, much = guesses.look([*tokens, 4, 5, 1, 2, 3])
    assert much > risen
    guesses.look([*tokens, 4, 5, 1, 2, 3, 9, 9, 9])
    _, fallen = guesses.look([*tokens, 4, 5, 1, 2, 3, 9, 9, 9, 1, 2, 3])
    assert risen < fallen < much


def test_two_tokens_are_trusted_for_themselves() -> None:
    """Guesses after two tokens have a chance of their own."""
    guesses = DraftStats()
    assert guesses.look([7, 2, 3, 4, 1, 2, 3])[1] == FIRST_CHANCE[2]
    assert guesses.look([7, 2, 3, 4, 1, 2, 3, 4])[1] == FIRST_CHANCE[3]


def test_looking_twice_counts_once() -> None:
    """A sequence that waits between two looks has not failed."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4, 1, 2, 3]
    assert guesses.look(tokens) == guesses.look(tokens)


def test_in_a_text_that_repeats_itself_all_is_decoded_at_last() -> None:
    """After some dozen guesses that came true a plan goes as far as a decode of rows that are nearly free."""
    guesses, tokens = DraftStats(), [1, 2, 3, 4] * 8
    for _ in range(20):
        guessed, chance = guesses.look(tokens)
        tokens += guessed[: 1 + plan(FLAT, [chance], [len(guessed)], 60)[0]]
    assert plan(FLAT, [chance], [len(guessed)], 60) == [MAX_DRAFTS] and chance > 0.95


def test_an_end_and_a_limit() -> None:
    """No end token is guessed, and no more tokens than asked for."""
    assert DraftStats([4]).look([1, 2, 3, 4, 1, 2, 3])[0] == []
    assert DraftStats().look([1, 2, 3, 4, 1, 2, 3], 2)[0] == [4, 1]
    assert DraftStats().look([1, 2, 3], 5) == ([], 0.0)
