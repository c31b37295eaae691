"""Large bodies of one tenant take a twentieth of the event loop's time, whatever is in them; others do not wait."""

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
    """A budget whose clock moves only when somebody sleeps or computes."""

    def __init__(self) -> None:
        self.now = self.computed = 0.0
        self.budget = ParseBudget(clock=lambda: self.now, cpu=lambda: self.computed, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds

    async def parse(self, tenant: str, n_bytes: int = LARGE, takes_s: float = 0.0) -> float:
        """When its turn came."""
        async with self.budget.turn(tenant, n_bytes):
            began = self.now
            self.now += takes_s
            self.computed += takes_s
        return began


async def test_the_next_large_body_waits_for_nineteen_times_what_the_last_one_took() -> None:
    """One after another: in all a twentieth of the time is theirs."""
    bench = Bench()
    turns = await asyncio.gather(*[bench.parse("a", takes_s=0.02) for _ in range(4)])
    assert turns == pytest.approx([i * 0.02 * (1 + REST) for i in range(4)])
    assert bench.computed / (turns[-1] + 0.02 * (1 + REST)) == pytest.approx(0.05)


async def test_small_bodies_and_other_tenants_do_not_wait() -> None:
    """What takes no time has none to wait for, and each key's large bodies are its own."""
    bench = Bench()
    assert await bench.parse("a", takes_s=0.02) == 0
    assert await bench.parse("a", LARGE - 1) == pytest.approx(0.02)
    assert await bench.parse("b") == pytest.approx(0.02)


async def test_a_body_that_is_refused_has_taken_its_time_as_well() -> None:
    """Most that are dear to parse are refused in the end."""
    bench = Bench()
    with suppress(ValueError):
        async with bench.budget.turn("a", LARGE):
            bench.now, bench.computed = 1.0, 1.0
            raise ValueError
    assert await bench.parse("a") == pytest.approx(1 + REST)


async def test_what_waits_is_bounded_in_bytes() -> None:
    """Beyond 64 MiB of one key: 429, and when they are through there is room again, also for those who have left."""
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
    """What is done with a body within its context is counted, as is what it takes to find that it is no JSON."""
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
