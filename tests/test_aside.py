"""aside.py: blocking work that does not delay the exit of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.aside import run_aside
from tests.patience import PATIENCE_S

ENDS = """
import asyncio, time
from service.aside import run_aside

async def main():
    working = asyncio.create_task(run_aside(lambda: time.sleep(3600)))
    await asyncio.sleep(0)
    working.cancel()

asyncio.run(main())
"""


async def test_results_and_errors_are_passed_on() -> None:
    """As from a direct call."""
    assert await run_aside(lambda: 7) == 7
    assert await run_aside(list) == []
    with pytest.raises(ZeroDivisionError):
        await run_aside(lambda: 1 // 0)


def test_a_process_ends_without_it() -> None:
    """An hour of work does not delay a process that is to exit."""
    subprocess.run([sys.executable, "-c", ENDS], check=True, timeout=PATIENCE_S)
