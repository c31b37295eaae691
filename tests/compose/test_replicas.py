"""Three real replicas behind nginx, with Redis, and faults while streams are read. The long version: make chaos."""

import asyncio
import random

import pytest

from tests.chaos import faults
from tests.chaos.replicas import trial
from tests.compose.stack import Stack
from tests.running import orders

pytestmark = pytest.mark.e2e

N_AT_ONCE = 18  # enough for each fault to affect some
N_STREAMS = 1000  # more than are begun before the last fault
FAULTS = {
    "paused": faults.pause_replica,
    "killed": faults.kill_replica,
    "nginx": faults.reload_nginx,
    "redis": faults.restart_redis,
}


async def test_readers_get_every_event_once(stack: Stack) -> None:
    """A replica is paused until others have adopted its streams, and its later writes are refused; one is killed, nginx
    is reloaded, Redis restarted: every reader that reconnects has each event once, and the undisturbed run's text."""
    await asyncio.to_thread(stack.scale, 3)
    try:
        outcome = await trial(stack, orders(N_STREAMS, 0, 600), FAULTS.items(), random.Random(1), N_AT_ONCE)
    finally:
        await asyncio.to_thread(stack.scale, 1)
    assert outcome.account.is_correct, outcome
    assert outcome.n_durable == outcome.account.n_streams, outcome
    assert outcome.n_leases == 0
    assert outcome.n_refused["paused"] > 0
    assert all(outcome.n_open[name] > 0 for name in FAULTS), outcome
