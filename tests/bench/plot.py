"""The figures as an SVG for light and dark mode: python -m tests.bench.plot FIGURES.json >FIGURES.svg. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from statistics import median
from textwrap import wrap

import orjson

from tests.bench.figures import PEER, RILL, Figure, Figures, load, short

WIDTH, MARGIN = 860, 16
LABEL = 400  # where the bars begin
BAR, GAP, ROW_GAP = 11, 2, 12
LONGEST = WIDTH - LABEL - 150  # the rest of the width is for the values
TOP = 44
N_COLUMNS = 120  # characters that fit into the width
CLASSES = {RILL: "rill", PEER: "peer"}

# The background is drawn too: a page may be dark although the system's theme is light.
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .paper { fill: #ffffff; } .rill { fill: #0a7f8f; } .peer { fill: #a8b0b8; } .faint { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .paper { fill: #0d1117; } .rill { fill: #2fb5c7; } .peer { fill: #5b6673; } .faint { fill: #9198a1; }
  }
"""


def svg(figures: Figures) -> str:
    """Each row of the table is a pair of bars; the longer one has the full length, as units differ."""
    body: list[str] = []
    y = TOP
    for row in figures.rows.values():
        body += pair(row, y)
        y += 2 * (BAR + GAP) + ROW_GAP
    about = [line for name, value in figures.about.items() for line in wrap(f"{name}: {value}", N_COLUMNS)]
    body += [text(MARGIN, y + 14 + 16 * i, line, "faint") for i, line in enumerate(about)]
    height = y + 14 + 16 * len(about)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    title = f"{RILL} and {PEER} in turn on one machine"
    return "\n".join(
        [
            f'{head} role="img" aria-label="{title}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
            *legend(),
            *body,
            "</svg>\n",
        ]
    )


def legend() -> Iterator[str]:
    for i, (server, name) in enumerate(CLASSES.items()):
        x = LABEL + 90 * i
        yield f'<rect class="{name}" x="{x}" y="{MARGIN}" width="{BAR}" height="{BAR}" rx="2"/>'
        yield text(x + BAR + 6, MARGIN + 10, server)
    yield text(MARGIN, MARGIN + 10, "medians; ↓: less is better", "faint")


def pair(row: Figure, y: int) -> Iterator[str]:
    """A row's name, its bars and their values."""
    values = {server: value for server in CLASSES if (value := row.median(server)) is not None}
    most = max(values.values(), default=0.0)
    yield text(MARGIN, y + BAR + GAP + 4, row.name if row.more_is_better else f"{row.name} ↓")
    for i, (server, value) in enumerate(values.items()):
        top, length = y + i * (BAR + GAP), max(1.0, LONGEST * value / most if most else 0.0)
        yield f'<rect class="{CLASSES[server]}" x="{LABEL}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>'
        times = f" ({short(median(row.ratios))}×)" if server == RILL and row.ratios else ""
        yield text(LABEL + length + 6, top + BAR - 1, short(value) + times)


def text(x: float, y: float, words: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text{chosen} x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'


if __name__ == "__main__":
    sys.stdout.write(svg(load(orjson.loads(Path(sys.argv[1]).read_bytes()))))
