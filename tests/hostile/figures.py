"""The figures of well-behaved clients alone and under attack: medians, ratios, and a table. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean, median

from tests.bench.figures import spread
from tests.bench.load import Answer, quantile

MOST_RATIO = 2.0
MOST_LINE = 2048  # bytes of one line of the log


ITL_P50, ITL_P99, TTFT_P95 = "ITL p50", "ITL p99", "TTFT p95"


@dataclass(frozen=True)
class Turn:
    """Seconds by name; without a token the wait is infinite."""

    seconds: dict[str, float]
    failures: Counter[str] = field(default_factory=Counter)  # by status, or by kind of failure

    @classmethod
    def of(cls, answers: list[Answer]) -> Turn:
        gaps = [gap for answer in answers for gap in answer.gaps_s] or [math.inf]
        waits = [answer.ttft_s if answer.times else math.inf for answer in answers]
        failures = Counter(_what(answer.error) for answer in answers if answer.error)
        seconds = {ITL_P50: quantile(gaps, 0.5), ITL_P99: quantile(gaps, 0.99), TTFT_P95: quantile(waits, 0.95)}
        return cls(seconds, failures)


@dataclass
class Row:
    """One kind of attack, turn by turn: before, during and after it."""

    name: str
    turns: list[tuple[Turn, Turn, Turn]] = field(default_factory=list)
    longest_line: int = 0  # bytes, of the service's log
    n_restarts: int = 0
    grown: float = -math.inf  # bytes of the front's memory: the maximum of one turn
    got: Counter[str] = field(default_factory=Counter)  # the attackers' responses

    @property
    def failures(self) -> Counter[str]:
        return sum((attacked.failures for _, attacked, _ in self.turns), Counter())

    def alone(self, name: str) -> float:
        return median(_between(before, after, name) for before, _, after in self.turns)

    def attacked(self, name: str) -> float:
        return median(attacked.seconds[name] for _, attacked, _ in self.turns)

    def ratios(self, name: str) -> list[float]:
        """The ratio to the time alone, turn by turn: each turn is compared with the one before and the one after it."""
        return [_times(turn.seconds[name], _between(before, after, name)) for before, turn, after in self.turns]

    def ratio(self, name: str) -> float:
        return median(self.ratios(name))

    def missed(self) -> Iterator[str]:
        """The goals that are missed."""
        for name in (ITL_P99, TTFT_P95):
            if self.ratio(name) > MOST_RATIO:
                yield f"{name} {self.ratio(name):.1f} times"
        if self.longest_line > MOST_LINE:
            yield f"a line of {self.longest_line:,} bytes"
        if n := sum(n for what, n in self.failures.items() if what[0] == "5"):
            yield f"{n} answers of 5xx"
        if self.n_restarts:
            yield f"{self.n_restarts} restarts"

    def __str__(self) -> str:
        figures = []
        for name in (ITL_P50, ITL_P99, TTFT_P95):
            figures.append(f"{1000 * self.alone(name):.1f} / {1000 * self.attacked(name):.1f}")
            if name != ITL_P50:
                figures.append(spread(self.ratios(name)))
        cells = (self.name, *figures, counts(self.failures), self.n_restarts, self.longest_line)
        return "| " + " | ".join(map(str, (*cells, f"{self.grown / (1 << 20):+.0f}", counts(self.got)))) + " |"


HEAD = (
    "| attack | ITL p50, ms: alone / attacked | p99 | times | TTFT p95, ms | times | failed | restarts "
    "| longest line, bytes | front, MiB | attackers' responses |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def _what(error: str) -> str:
    """Its status, its code if it came in the stream, or its first words."""
    code = re.search("'code': '(.*?)'", error)
    return code[1] if error.startswith("{") and code else error.partition(":")[0][:40]


def _between(before: Turn, after: Turn, name: str) -> float:
    return mean([before.seconds[name], after.seconds[name]])


def _times(seconds: float, alone: float) -> float:
    if seconds == alone:  # both infinite
        return 1.0
    return seconds / alone if alone else math.inf


def counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counter.most_common()) or "0"


def verdict(rows: list[Row]) -> str:
    """One line: whether no client was delayed by more than MOST_RATIO, and no other goal was missed."""
    missed = [f"{row.name}: {', '.join(row.missed())}" for row in rows if any(row.missed())]
    goal = f"p99 and p95 within {MOST_RATIO:g} times, no line over {MOST_LINE:,} bytes, no 5xx, no restart"
    return f"The goal ({goal}) is " + (f"missed under {'; '.join(missed)}." if missed else "kept under all of them.")
