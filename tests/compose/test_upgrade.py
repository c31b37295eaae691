"""deploy/upgrade on real containers, while streams are read and new ones begun: nobody notices."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp
import pytest

from tests.chaos.comeback import Account, Reading, read
from tests.events import text
from tests.running import orders

from .stack import ROOT, Stack, run

pytestmark = pytest.mark.e2e

N_LONG, LONG_TOKENS, PACE = 4, 500, 10  # for 50 s: each is handed over by a replica that is stopped, or by several
N_SHORT, SHORT_TOKENS = 2, 20  # one after the other, so that there is always one that begins
SALT = 7000


async def begin_again(client: aiohttp.ClientSession, url: str, which: int, over: asyncio.Event) -> list[int]:
    """The status of one short stream after the other, each of a connection of its own, until it is over."""
    statuses = []
    for n in itertools.count():
        body = {"prompt": f"Count to {n}", "seed": which, "max_tokens": SHORT_TOKENS, "ignore_eos": True}
        async with client.post(url + "/stream", json=body, headers={"Connection": "close"}) as response:
            whole = await response.text()
            statuses.append(response.status if whole.count("event: done") == 1 else 0)
        if over.is_set():
            return statuses
    raise AssertionError


async def read_long(client: aiohttp.ClientSession, url: str, orders: list[dict[str, Any]], key: str) -> list[Reading]:
    readings = [Reading() for _ in orders]
    asked = [{n: str(v) for n, v in order.items()} | {"key": f"{key}-{order['seed']}"} for order in orders]
    await asyncio.gather(*(read(client, url, fields, one) for fields, one in zip(asked, readings, strict=True)))
    return readings


@pytest.mark.parametrize("n_replicas", [1, 3])
async def test_nobody_notices(
    stack: Stack, client: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str], n_replicas: int
) -> None:
    """All replicas are replaced, by ones with other settings: every request is answered with 200, and every stream has
    each of its tokens once, and the undisturbed run's text."""
    stack.env["RILL_DRAIN_S"] = "2"  # of all but the first: more is handed over
    await asyncio.to_thread(stack.scale, n_replicas)
    before, seen, over = set(stack.containers("service")), len(stack.access), asyncio.Event()
    stack.env["RILL_MODEL_NAMES"] = "upgraded"
    command = (str(ROOT / "deploy" / "upgrade"), "-p", stack.project)
    long = orders(N_LONG, SALT + n_replicas, LONG_TOKENS)
    paced = [order | {"pace": PACE} for order in long]
    try:
        reading = asyncio.create_task(read_long(client, stack.url, paced, f"upgrade-{n_replicas}"))
        beginning = [asyncio.create_task(begin_again(client, stack.url, n, over)) for n in range(N_SHORT)]
        await asyncio.to_thread(run, *command, env=stack.env, timeout_s=600)
        over.set()
        readings = await reading
        statuses = [status for task in beginning for status in await task]
        whole = await read_long(client, stack.url, long, f"whole-{n_replicas}")
        account = Account()
        for one, undisturbed in zip(readings, whole, strict=True):
            account.enter(one, text(undisturbed.events))
        answered = [line["status"] for line in stack.access[seen:] if line["path"] == "/stream"]
        with capsys.disabled():
            print(f"\nupgrade of {n_replicas}: {len(answered)} answers, {len(statuses)} short streams; {account}")
        after = stack.containers("service")
        assert len(after) == n_replicas and before.isdisjoint(after)
        assert set(statuses) == set(answered) == {200}
        assert account.is_spotless, account
    finally:
        del stack.env["RILL_DRAIN_S"], stack.env["RILL_MODEL_NAMES"]
        await asyncio.to_thread(stack.scale, 1)
        await asyncio.to_thread(run, *command, env=stack.env, timeout_s=600)


async def test_wrong_settings_reach_no_reader(stack: Stack, client: aiohttp.ClientSession) -> None:
    """An upgrade to settings that can't be used says so, with the line, and leaves the replicas alone."""
    before = stack.containers("service")
    with pytest.raises(AssertionError, match="rill: RILL_N_SEQ: "):
        command = (str(ROOT / "deploy" / "upgrade"), "-p", stack.project)
        await asyncio.to_thread(run, *command, env=stack.env | {"RILL_N_SEQ": "0"}, timeout_s=120)
    assert stack.containers("service") == before
    async with client.get(stack.url + "/readyz") as response:
        assert response.status == 200
