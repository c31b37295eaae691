"""deploy/upgrade on real containers, while streams are read and new ones begun: no client notices."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.chaos.comeback import Account, Reading, read
from tests.chaos.faults import throttled
from tests.compose.stack import ROOT, Stack, run
from tests.events import text
from tests.running import orders

pytestmark = pytest.mark.e2e

N_LONG, LONG_TOKENS = 8, 600  # read concurrently: at the CPU share below for over a quarter of a minute
N_SHORT, SHORT_TOKENS = 2, 20  # one after another, so that new ones are always beginning
SHARE = 0.15  # of a core, for each old replica: its streams are still running when it is stopped
DRAIN_S = "2"  # and they may not run longer


async def begin_again(url: str, which: int, over: asyncio.Event) -> list[int]:
    """The statuses of short streams, one after another, until `over` is set. Each has a new connection: any server may
    close an idle one as it is used again, and nginx closes its own when it has a new list of replicas."""
    statuses = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
        for n in itertools.count():
            body = {"prompt": f"Count to {n}", "seed": which, "max_tokens": SHORT_TOKENS, "ignore_eos": True}
            async with client.post(url + "/stream", json=body) as response:
                whole = await response.text()
                statuses.append(response.status if whole.count("event: done") == 1 else 0)
            if over.is_set():
                break
    return statuses


Readings = list[tuple[dict[str, Any], Reading]]


async def read_long(
    client: aiohttp.ClientSession, url: str, asked: Iterator[dict[str, Any]], over: asyncio.Event
) -> Readings:
    """Long streams one after another, until `over` is set."""
    readings: Readings = []
    while not over.is_set():
        order, reading = next(asked), Reading()
        readings.append((order, reading))
        await read(client, url, fields(order, "upgrade"), reading)
    return readings


def fields(order: dict[str, Any], key: str) -> dict[str, str]:
    return {name: str(value) for name, value in order.items()} | {"key": f"{key}-{order['seed']}"}


@pytest.mark.parametrize("n_replicas", [1, 3])
async def test_an_upgrade_is_unnoticed(
    stack: Stack, client: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str], n_replicas: int
) -> None:
    """All replicas are replaced by ones with other settings: every request is answered with 200, and every stream, also
    one that continues at another replica, has each of its tokens once and the undisturbed run's text."""

    async def upgrade() -> None:
        program = str(ROOT / "deploy" / "upgrade")
        await asyncio.to_thread(run, program, "-p", stack.project, env=stack.env, timeout_s=600)

    stack.env["RILL_DRAIN_S"] = DRAIN_S
    await upgrade()
    await asyncio.to_thread(stack.scale, n_replicas)
    before, seen, over = set(stack.containers("service")), len(stack.access), asyncio.Event()
    stack.env["RILL_MODEL_NAMES"] = "upgraded"
    asked = iter(orders(1000, 1000 * n_replicas, LONG_TOKENS))
    try:
        with throttled(stack, SHARE):
            reading = [asyncio.create_task(read_long(client, stack.url, asked, over)) for _ in range(N_LONG)]
            beginning = [asyncio.create_task(begin_again(stack.url, n, over)) for n in range(N_SHORT)]
            await upgrade()
        over.set()
        readings = [one for task in reading for one in await task]
        statuses = [status for task in beginning for status in await task]
        answered = [line["status"] for line in stack.access[seen:] if line["path"] == "/stream"]
        account, undisturbed = Account(), [Reading() for _ in readings]
        again = zip(readings, undisturbed, strict=True)
        await asyncio.gather(*(read(client, stack.url, fields(o, "undisturbed"), alone) for (o, _), alone in again))
        for (_, one), alone in zip(readings, undisturbed, strict=True):
            account.enter(one, text(alone.events))
        with capsys.disabled():
            print(f"\nupgrade of {n_replicas}: {len(answered)} answers, {len(statuses)} short streams; {account}")
        after = stack.containers("service")
        assert len(after) == n_replicas and before.isdisjoint(after)
        assert set(statuses) == set(answered) == {200}
        assert account.n_cut > 0 or n_replicas == 1, "none continued elsewhere"
        assert account.is_correct, account
    finally:
        del stack.env["RILL_DRAIN_S"], stack.env["RILL_MODEL_NAMES"]
        await asyncio.to_thread(stack.scale, 1)
        await upgrade()


async def test_wrong_settings_reach_no_reader(stack: Stack, client: aiohttp.ClientSession) -> None:
    """An upgrade to invalid settings fails with the error line, and leaves the replicas as they are."""
    before = stack.containers("service")
    with pytest.raises(AssertionError, match="rill: RILL_N_SEQ: "):
        command = (str(ROOT / "deploy" / "upgrade"), "-p", stack.project)
        await asyncio.to_thread(run, *command, env=stack.env | {"RILL_N_SEQ": "0"}, timeout_s=120)
    assert stack.containers("service") == before
    async with client.get(stack.url + "/readyz") as response:
        assert response.status == 200
