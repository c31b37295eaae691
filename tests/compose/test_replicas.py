"""Three real replicas behind nginx, with Redis, and what happens to them while streams are read. Long: make chaos."""

import asyncio
import random

import pytest

from tests.chaos import troubles
from tests.chaos.replicas import trial
from tests.compose.stack import Stack
from tests.running import orders

pytestmark = pytest.mark.e2e

N_AT_ONCE = 18  # enough that each trouble meets some
N_STREAMS = 1000  # more than are begun before the troubles are over
TROUBLES = {
    "paused": troubles.pause_replica,
    "killed": troubles.kill_replica,
    "nginx": troubles.reload_nginx,
    "redis": troubles.restart_redis,
}


async def test_readers_get_all_of_it_once(stack: Stack) -> None:
    """A replica is paused until others have its streams, and refused what it still writes; one is killed, nginx is
    reloaded, Redis restarted: every reader that comes back has each event once, and the undisturbed run's text."""
    await asyncio.to_thread(stack.scale, 3)
    try:
        outcome = await trial(stack, orders(N_STREAMS, 0, 600), TROUBLES.items(), random.Random(1), N_AT_ONCE)
    finally:
        await asyncio.to_thread(stack.scale, 1)
    assert outcome.account.is_spotless, outcome
    assert outcome.n_durable == outcome.account.n_streams, outcome
    assert outcome.n_leases == 0
    assert outcome.n_refused["paused"] > 0
    assert all(outcome.n_open[name] > 0 for name in TROUBLES), outcome
