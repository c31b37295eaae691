"""The engine's command line: the front's settings, and what the last engine chose by measurement. Pure."""

from __future__ import annotations

import sys

from service.protocol.frames import Ready


def chosen(last: Ready | None) -> list[str]:
    """The last engine's measured choice, which the next must keep: its streams' texts depend on it."""
    return ["--buffer-types", last.buffer_types] if last and last.buffer_types else []


def command(model: str, options: dict[str, object]) -> list[str]:
    """The engine's command line; options that are None are left to the engine's own defaults."""
    line = [sys.executable, "-m", "service.engine", "--model", model]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name.replace('_', '-')}", str(value)]
    return line
