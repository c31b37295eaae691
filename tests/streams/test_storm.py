"""Readers that leave at any await, while the log goes to Redis. The long version is in make chaos."""

from __future__ import annotations

import random

import pytest

from tests.chaos.storm import Storm
from tests.conftest import Serve
from tests.redis_server import RedisServer
from tests.replicas import until
from tests.running import orders

pytestmark = pytest.mark.e2e

PIECES = tuple(f" {n}" for n in range(200))
N_STAY = 5


@pytest.mark.parametrize("seed", range(2))
async def test_no_event_reaches_a_stream_that_is_not_its_own(serve: Serve, redis: RedisServer, seed: int) -> None:
    """Readers that stay have each event once, readers that leave none of another stream; nothing remains."""
    settings = {"redis_url": redis.url, "n_seq": 32, "max_waiting": 500, "resume_grace_s": 0.5}
    services = [await serve(**settings) for _ in range(2)]
    for service in services:
        service.engine.pause_s, service.engine.pieces = 0.01, PIECES
    storm = Storm(
        urls=[service.url for service in services],
        client=services[0].client,
        rng=random.Random(seed),
        asked=orders(N_STAY, 0, len(PIECES)),
        wholes=["".join(PIECES)] * N_STAY,
    )
    account = await storm.run(100)
    assert account.is_correct, account
    assert storm.n_events > 0
    assert storm.n_foreign == 0
    await until(lambda: all(service.rill.streams.is_idle for service in services))
    await until(lambda: redis.ask("ZCARD", "rill:live") == b":0\r\n")
