"""What an installer says while it compiles: before, how long it may take; then, by ninja's lines, how long still."""

from __future__ import annotations

import re
from collections.abc import Iterator

STEP = re.compile(r"\[(\d+)/(\d+)\]")  # ninja's


def minutes(seconds: float) -> str:
    """A duration as one says it beforehand: "about 4 minutes"."""
    return "about a minute" if seconds < 90 else f"about {seconds / 60:.0f} minutes"


def left(line: str, elapsed_s: float) -> str | None:
    """What there is to say after a line of ninja's, None if there is nothing. Files differ, so it is a rough guess."""
    found = STEP.search(line)
    if found is None:
        return None
    n, of = int(found[1]), int(found[2])
    words = f"  llama.cpp: {n} of {of} files compiled, {elapsed_s:.0f} s"
    return f"{words}, {minutes(elapsed_s * (of - n) / n)} left" if n >= of / 10 and n < of else words


def tenths(lines: Iterator[tuple[str, float]]) -> Iterator[str]:
    """Of lines and when they came, what a log should have: one for each tenth of the files."""
    last = -1
    for line, elapsed_s in lines:
        found = STEP.search(line)
        if found and 10 * int(found[1]) // int(found[2]) > last:
            last = 10 * int(found[1]) // int(found[2])
            yield left(line, elapsed_s) or ""
