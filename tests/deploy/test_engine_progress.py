"""What the installer prints while it compiles."""

from __future__ import annotations

from deploy.engine.progress import left, minutes, tenths


def test_the_time_left_is_extrapolated() -> None:
    """Compiled files of all, and the time for the rest at that pace; there is no estimate before a tenth is done."""
    assert left("[40/80] Building CXX object a.o\n", 120.0) == (
        "  llama.cpp: 40 of 80 files compiled, 120 s, about 2 minutes left"
    )
    assert left("[1/80] Building CXX object a.o\n", 3.0) == "  llama.cpp: 1 of 80 files compiled, 3 s"
    assert left("[80/80] Linking\n", 240.0) == "  llama.cpp: 80 of 80 files compiled, 240 s"
    assert left("-- Configuring done\n", 1.0) is None


def test_a_log_gets_a_line_per_tenth() -> None:
    """In a log each tenth of the files is one line, with nothing between."""
    lines = [(f"[{n}/100] Building\n", float(n)) for n in range(1, 101)]
    said = list(tenths(iter([("noise\n", 0.0), *lines])))
    assert [line.split()[1] for line in said] == ["1", *map(str, range(10, 101, 10))]


def test_minutes() -> None:
    """Durations are rounded to the accuracy of the estimate."""
    assert [minutes(s) for s in (20, 100, 600)] == ["about a minute", "about 2 minutes", "about 10 minutes"]
