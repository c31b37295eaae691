"""Well-behaved clients run for a turn, and their answers are returned."""

from __future__ import annotations

import asyncio

from tests import neighbours
from tests.bench.load import Ask
from tests.conftest import Serve
from tests.fakes import STORY, turns

ASKS = [Ask(n_words=4, n_tokens=8), Ask(n_words=9, n_tokens=8)]


async def test_a_turn(serve: Serve) -> None:
    """Each client repeats its request until the turn is over, and is then read to its end; no prompt is used twice."""
    service = await serve(api_keys="good,bad")
    async with neighbours.start(service.url, ["good", "good"], ASKS, "salt") as clients:
        for _ in range(2):
            answers = await clients.turn(0.2)
            assert len(answers) >= 2
            assert all(len(answer.times) == len(STORY) and not answer.error for answer in answers)
            assert all(answer.ttft_s > 0 for answer in answers)
    prompts = [submit.text for submit in service.engine.submitted]
    assert len(prompts) == len(set(prompts))
    assert {len(prompt.split()) for prompt in prompts if prompt} == {4, 9}


async def test_a_refusal_is_reported(serve: Serve) -> None:
    """The reason is reported; and the next turn begins anew."""
    service = await serve(api_keys="good,bad")
    async with neighbours.start(service.url, ["nobody"], ASKS[:1], "salt") as clients:
        assert all(answer.error.startswith("401") for answer in await clients.turn(0.05))


async def test_an_answer_without_an_end(serve: Serve) -> None:
    """The wait is limited, and an answer without an end by then is reported as such."""
    service = await serve()
    service.engine.pause_s = 3600.0
    is_over, clients = asyncio.Event(), neighbours.Clients([""], ASKS[:1], "salt", last_s=0.1)
    turn = asyncio.create_task(clients.turn(service.url, is_over))
    await turns(lambda: service.engine.submitted)
    is_over.set()
    assert [answer.error for answer in await turn] == ["no end"]
