"""Measurements, round by round, and what is derived from them: medians, ratios, a table, JSON. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

RILL, PEER, ENGINE = "Rill", "llama-server", "the engine alone"


@dataclass(frozen=True)
class Figure:
    """One row of the table: each server's values, one per round."""

    name: str
    rounds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def more_is_better(self) -> bool:
        """Figures in seconds are better when lower, all others when higher."""
        return not self.name.endswith(", s")

    def median(self, server: str) -> float | None:
        return median(self.rounds[server]) if self.rounds.get(server) else None

    @property
    def ratios(self) -> list[float]:
        """How many times better than the peer Rill was in each round."""
        pairs = zip(self.rounds.get(RILL, ()), self.rounds.get(PEER, ()), strict=False)
        return [better(rill, peer, self.more_is_better) for rill, peer in pairs if rill and peer]


def better(one: float, other: float, more_is_better: bool) -> float:
    return one / other if more_is_better else other / one


@dataclass
class Figures:
    """All rows in order of measurement, and what they were measured on."""

    about: dict[str, str]  # machine, model, command
    rows: dict[str, Figure] = field(default_factory=dict)

    def enter(self, server: str, *tries: dict[str, float]) -> None:
        """Adds one round of one server; if it was measured in several ways, each row gets the best of them."""
        for name in tries[0]:
            row = self.rows.setdefault(name, Figure(name))
            best = max if row.more_is_better else min
            row.rounds.setdefault(server, []).append(best(one[name] for one in tries))

    def json(self) -> dict[str, Any]:
        return {"about": self.about, "rows": [{"name": row.name, "rounds": row.rounds} for row in self.rows.values()]}

    def table(self) -> str:
        """Markdown: the median of all rounds (minimum - maximum)."""
        lines = [f"{name}: {value}  " for name, value in self.about.items()]
        lines += ["", f"| | {RILL} | {PEER} | times better | {ENGINE} |", "|---|---|---|---|---|"]
        for row in self.rows.values():
            rill, peer, engine = (spread(row.rounds.get(server, [])) for server in (RILL, PEER, ENGINE))
            lines.append(f"| {row.name} | {rill} | {peer} | {spread(row.ratios)} | {engine} |")
        return "\n".join(lines)


def load(saved: dict[str, Any]) -> Figures:
    """The figures that json() returned."""
    return Figures(saved["about"], {row["name"]: Figure(row["name"], row["rounds"]) for row in saved["rows"]})


def spread(values: list[float]) -> str:
    """The median and, of several values, minimum and maximum; three digits, the measurement's precision."""
    if not values:
        return ""
    middle = short(median(values))
    return middle if len(values) == 1 else f"{middle} ({short(min(values))}-{short(max(values))})"


def short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
