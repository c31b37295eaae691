"""What counts as a delay, and how it is reported."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from tests.bench.load import Answer
from tests.hostile.figures import HEAD, ITL_P50, ITL_P99, TTFT_P95, Row, Turn, counts, verdict


def answer(*times: float, error: str = "") -> Answer:
    return Answer(began=0.0, times=list(times), error=error)


def turn(itl: float, ttft: float, **failures: int) -> Turn:
    return Turn({ITL_P50: itl / 2, ITL_P99: itl, TTFT_P95: ttft}, Counter(failures))


def row(*turns: tuple[Turn, Turn, Turn]) -> Row:
    return Row("x", list(turns), longest_line=400, grown=1 << 20)


def test_a_turn() -> None:
    """All gaps of all answers, and each answer's time to first token."""
    found = Turn.of([answer(1.0, 1.5, 2.0), answer(3.0, 3.25)])
    assert found == Turn({ITL_P50: 0.5, ITL_P99: 0.5, TTFT_P95: 3.0})


def test_without_a_token_the_wait_is_infinite() -> None:
    """A refusal is not a quick answer; its status is counted, and so are broken connections."""
    found = Turn.of([answer(1.0, 2.0), answer(error="503: {'error'}"), answer(error="503: x"), answer(error="no end")])
    assert found.seconds[TTFT_P95] == math.inf
    assert found.failures == {"503": 2, "no end": 1}
    assert Turn.of([answer(error="503")]).seconds[ITL_P99] == math.inf
    in_stream = str({"message": "x", "type": "y", "param": None, "code": "queue_timeout"})
    assert Turn.of([answer(1.0, error=in_stream)]).failures == {"queue_timeout": 1}


def test_each_turn_is_compared_with_adjacent_turns() -> None:
    """A machine that becomes slower does not change the ratio; the median of the turns counts."""
    found = row(
        (turn(1.0, 1.0), turn(1.5, 2.0), turn(2.0, 1.0)),
        (turn(2.0, 1.0), turn(6.0, 3.0), turn(4.0, 1.0)),
        (turn(4.0, 1.0), turn(40.0, 4.0), turn(4.0, 1.0)),
    )
    assert (found.ratio(ITL_P99), found.ratio(TTFT_P95)) == (2.0, 3.0)
    assert found.ratios(TTFT_P95) == [2.0, 3.0, 4.0]
    assert (found.alone(ITL_P99), found.attacked(ITL_P99)) == (3.0, 6.0)


@pytest.mark.parametrize(
    ("alone", "attacked", "times"),
    [(1.0, math.inf, math.inf), (math.inf, math.inf, 1.0), (math.inf, 1.0, 0.0), (0.0, 1.0, math.inf)],
)
def test_infinite_times_have_a_ratio(alone: float, attacked: float, times: float) -> None:
    """None of them is NaN, which would be below any goal."""
    assert row((turn(alone, 1.0), turn(attacked, 1.0), turn(alone, 1.0))).ratio(ITL_P99) == times


def test_missed_goals() -> None:
    """Ratios, lines of the log, 5xx and restarts; a 429 is the right answer to too many requests."""
    quiet = turn(1.0, 1.0)
    good = row((quiet, turn(2.0, 2.0, **{"429": 3}), quiet))
    assert list(good.missed()) == []
    assert verdict([good]).endswith("is kept under all of them.")
    bad = row((quiet, turn(3.0, 2.5, **{"503": 2}), quiet))
    bad.longest_line, bad.n_restarts = 3000, 1
    missed = ["ITL p99 3.0 times", "TTFT p95 2.5 times", "a line of 3,000 bytes", "2 answers of 5xx", "1 restarts"]
    assert list(bad.missed()) == missed
    assert verdict([good, bad]).endswith(f"is missed under x: {', '.join(missed)}.")


def test_a_row_has_a_cell_for_each_column() -> None:
    """In milliseconds, ratios, MiB."""
    found = str(row((turn(0.001, 0.01), turn(0.002, 0.01), turn(0.001, 0.01))))
    assert found == "| x | 0.5 / 1.0 | 1.0 / 2.0 | 2 | 10.0 / 10.0 | 1 | 0 | 0 | 400 | +1 | 0 |"
    assert found.count("|") == HEAD.splitlines()[0].count("|")
    assert counts(Counter({"400": 2, "200": 3})) == "3 200, 2 400"
