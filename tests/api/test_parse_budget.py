"""Parsing one tenant's large bodies takes a twentieth of the event loop's time; other tenants do not wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from unittest.mock import Mock

import pytest
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request

from service.api.body import Bodies
from service.api.parse_budget import LARGE, MOST_WAITING, REST, ParseBudget
from service.errors import Invalid, QueueFull


class Bench:
    """A budget whose clock advances only by sleeping and computing."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0
        self.budget = ParseBudget(clock=lambda: self.now, cpu=lambda: self.computed, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds

    async def parse(self, tenant: str, n_bytes: int = LARGE, takes_s: float = 0.0) -> float:
        """The time at which its turn began."""
        async with self.budget.turn(tenant, n_bytes):
            began = self.now
            self.now += takes_s
            self.computed += takes_s
        return began


async def test_the_next_large_body_waits_for_nineteen_times_what_the_last_one_took() -> None:
    """One after another they take a twentieth of the time in total."""
    bench = Bench()
    turns = await asyncio.gather(*[bench.parse("a", takes_s=0.02) for _ in range(4)])
    assert turns == pytest.approx([i * 0.02 * (1 + REST) for i in range(4)])
    assert bench.computed / (turns[-1] + 0.02 * (1 + REST)) == pytest.approx(0.05)


async def test_small_bodies_and_other_tenants_do_not_wait() -> None:
    """A body that takes no time causes no wait, and each key has its own budget."""
    bench = Bench()
    assert await bench.parse("a", takes_s=0.02) == 0
    assert await bench.parse("a", LARGE - 1) == pytest.approx(0.02)
    assert await bench.parse("b") == pytest.approx(0.02)


async def test_a_refused_body_is_charged_too() -> None:
    """Most bodies that are expensive to parse are refused in the end."""
    bench = Bench()
    with suppress(ValueError):
        async with bench.budget.turn("a", LARGE):
            bench.now, bench.computed = 1.0, 1.0
            raise ValueError
    assert await bench.parse("a") == pytest.approx(1 + REST)


async def test_waiting_bodies_are_bounded_in_bytes() -> None:
    """Beyond 64 MiB of one key a body gets 429; room is freed by bodies that are parsed and by clients that left."""
    bench = Bench()
    half = MOST_WAITING // 2
    await bench.parse("a", takes_s=1.0)
    waiting = [asyncio.create_task(bench.parse("a", half, takes_s=1.0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await bench.parse("a", half)
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await bench.parse("a", MOST_WAITING) == pytest.approx(2 * (1 + REST))


async def test_bodies_are_parsed_in_their_turn() -> None:
    """Both the work on a parsed body within its context and the time to find that it is not JSON are charged."""
    bench = Bench()
    bodies = Bodies(1 << 20, bench.budget)

    async def read(body: bytes) -> int:
        request = make_mocked_request("POST", "/", payload=payload(body))
        async with bodies.parsed(request, "a") as parsed:
            bench.now += 0.01
            bench.computed += 0.01
            return len(parsed["prompt"])

    prompt = "a" * LARGE
    assert await read(b'{"prompt":"%b"}' % prompt.encode()) == LARGE
    with pytest.raises(Invalid):
        await read(b"[" * LARGE)
    assert bench.now == pytest.approx(0.01 * (1 + REST)), "it has waited for its turn"


def payload(body: bytes) -> StreamReader:
    reader = StreamReader(Mock(_reading_paused=False), 1 << 16)
    reader.feed_data(body)
    reader.feed_eof()
    return reader
