"""A container whose settings are invalid stays up for a while, and reports why."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from service.api.stay import stay
from service.health import ask
from service.health import main as check
from tests.compose.stack import free_port
from tests.patience import PATIENCE_S
from tests.running import ROOT


async def listening(port: int) -> dict[str, object]:
    """Its first answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await asyncio.to_thread(ask, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def test_it_reports_the_error_to_the_health_check() -> None:
    """It is unhealthy at once, with the line that it printed."""
    port = free_port()
    staying = asyncio.create_task(stay("RILL_N_SEQ: no", 3600, port=port))
    assert await listening(port) == {"ready": False, "reason": "settings", "message": "RILL_N_SEQ: no"}
    assert await asyncio.to_thread(check, port) == 1
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(staying, PATIENCE_S)


async def test_it_ends_by_itself() -> None:
    """It exits so that it is started again, as the fault may have been repaired; also where it could not listen."""
    await stay("no", 0.01, port=free_port())
    port = free_port()
    first = asyncio.create_task(stay("no", 3600, port=port))
    await listening(port)
    await stay("no", 0.01, port=port)
    first.cancel()
    await asyncio.wait([first])


@pytest.mark.parametrize(
    "settings", [{"RILL_N_SEQ": "0"}, {"RILL_MODEL": "/nonexistent.gguf"}, {"RILL_HOST": "192.0.2.1"}]
)
async def test_the_service_stays_if_configured(settings: dict[str, str]) -> None:
    """One line on stderr at once, and exit status 2 when it is stopped."""
    command = [sys.executable, "-m", "service", "--stay-s", "3600"]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | settings, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    assert (await asyncio.wait_for(process.stderr.readline(), PATIENCE_S)).startswith(b"rill: ")
    async with asyncio.timeout(PATIENCE_S):
        while not handles_sigterm(process.pid):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 2


def handles_sigterm(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        [caught] = [line.split()[1] for line in status if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
