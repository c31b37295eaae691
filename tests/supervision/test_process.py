"""process.py: what an engine writes to stderr is logged, within bounds."""

from __future__ import annotations

import logging
import sys

import pytest

from service.protocol.options import Options
from service.supervision.connection import EngineConnection
from service.supervision.process import BURST_LINES, MAX_LINE_CHARS, N_LINES, Allowance, Process
from tests.patience import PATIENCE_S

FLOOD = """
import sys
for i in range(20_000):
    print(f"{i} " + "x" * 3000, file=sys.stderr)
print("its last word", file=sys.stderr)
"""


async def test_a_flood_is_counted_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the number nor the length of its lines fills the log; its last lines are kept."""
    caplog.set_level(logging.INFO, "service.supervisor")
    door = EngineConnection(lambda frame: None, lambda: 0.0)
    process = await Process.spawn([sys.executable, "-c", FLOOD], Options(model=""), door)
    await process._reading
    await process.end()
    lines = [str(record.__dict__["line"]) for record in caplog.records]
    n_left_out = sum(record.__dict__.get("left_out", 0) for record in caplog.records)
    assert BURST_LINES <= len(lines) < BURST_LINES + 20 * PATIENCE_S
    assert len(lines) + n_left_out <= 20_001
    assert max(map(len, lines)) == MAX_LINE_CHARS
    assert len(process.lines) == N_LINES and process.lines[-1] == "its last word"


def test_an_allowance() -> None:
    """A burst at once, then a rate per second, never more than the burst."""
    allowance = Allowance(3, 2.0)
    assert [allowance.take(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert [allowance.take(10.5) for _ in range(2)] == [True, False]
    assert [allowance.take(100.0) for _ in range(5)] == [True, True, True, False, False]
