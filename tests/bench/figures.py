"""What was measured, round by round, and what it comes to: medians, ratios, a table, JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

RILL, PEER, ENGINE = "Rill", "llama-server", "the engine alone"


@dataclass(frozen=True)
class Figure:
    """One row of the table: each server's values, one a round."""

    name: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def more_is_better(self) -> bool:
        """All that is in seconds should be little, everything else much."""
        return not self.name.endswith(", s")

    def median(self, who: str) -> float | None:
        return median(self.rounds[who]) if self.rounds.get(who) else None

    @property
    def ratios(self) -> list[float]:
        """How many times better Rill was than the peer in each round."""
        pairs = zip(self.rounds.get(RILL, ()), self.rounds.get(PEER, ()), strict=False)
        return [better(rill, peer, self.more_is_better) for rill, peer in pairs if rill and peer]


def better(one: float, other: float, more_is_better: bool) -> float:
    return one / other if more_is_better else other / one


@dataclass
class Figures:
    """All rows, in the order in which they became known, and what they were measured on."""

    about: dict[str, str]  # machine, model, command
    rows: dict[str, Figure] = field(default_factory=dict)

    def enter(self, who: str, *tries: dict[str, float]) -> None:
        """One round of one server; if it was tried in several ways, each row has the best of them."""
        for name in tries[0]:
            row = self.rows.setdefault(name, Figure(name))
            best = max if row.more_is_better else min
            row.rounds.setdefault(who, []).append(best(one[name] for one in tries))

    def json(self) -> dict[str, Any]:
        return {"about": self.about, "rows": [{"name": row.name, "rounds": row.rounds} for row in self.rows.values()]}

    def table(self) -> str:
        """Markdown: the median of all rounds (the least - the most)."""
        lines = [f"{name}: {value}  " for name, value in self.about.items()]
        lines += ["", f"| | {RILL} | {PEER} | times better | {ENGINE} |", "|---|---|---|---|---|"]
        for row in self.rows.values():
            rill, peer, engine = (spread(row.rounds.get(who, [])) for who in (RILL, PEER, ENGINE))
            lines.append(f"| {row.name} | {rill} | {peer} | {spread(row.ratios)} | {engine} |")
        return "\n".join(lines)


def load(saved: dict[str, Any]) -> Figures:
    """What json() gave."""
    return Figures(saved["about"], {row["name"]: Figure(row["name"], row["rounds"]) for row in saved["rows"]})


def spread(values: list[float]) -> str:
    """The median and, of several values, the least and the most; three digits, for they tell no more."""
    if not values:
        return ""
    middle = short(median(values))
    return middle if len(values) == 1 else f"{middle} ({short(min(values))}-{short(max(values))})"


def short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
