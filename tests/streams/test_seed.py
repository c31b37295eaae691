"""What a seed means to users, with the real engine and the embedded model: their receipts state it, and it holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.events import Event, parse, text
from tests.running import Service, running

# Longer than a tile of attention: with f16 it gives other numbers than a prompt after a kept prefix.
PROMPT = "Number {}. Tell me a story about a fox, an owl and a bear who live by the river. " + "They are friends. " * 12
ORDERS: list[dict[str, Any]] = [
    {"prompt": PROMPT.format(i), "seed": i, "temperature": 1.0, "max_tokens": 150, "ignore_eos": True}
    for i in range(12)
]


async def asked(service: Service, order: dict[str, Any]) -> tuple[list[Event], bool]:
    """The events of a request, and its receipt's `exact`."""
    async with service.client.post("/stream", json=order) as response:
        id, events = response.headers["X-Stream-Id"], parse(await response.read())
    async with service.client.get(f"/v1/streams/{id}", headers={"Accept": "application/json"}) as response:
        return events, (await response.json())["exact"]


def n_cached(events: list[Event]) -> int:
    n: int = events[-1].json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return n


@pytest.mark.parametrize("kv_type", ["auto", "bf16", "q8_0"])
async def test_the_same_request_sent_twice(kv_type: str) -> None:
    """Alone without a kept prefix, and then in a batch of twelve with one, a seeded request gives the same text if its
    receipt says so: with an exact cache on a CPU, and with the default if that is exact there."""
    async with running(kv_type=kv_type, n_gpu_layers="0") as service:
        first = [await asked(service, order) for order in ORDERS]
        again = await asyncio.gather(*[asked(service, order) for order in ORDERS])
    # The first tokens of a chat are the same in all.
    assert max(n_cached(events) for events, _ in first) < 16 < min(n_cached(events) for events, _ in again)
    (exact,) = {exact for _, exact in [*first, *again]}
    assert exact or kv_type == "auto"
    if exact:
        assert [text(events) for events, _ in again] == [text(events) for events, _ in first]
