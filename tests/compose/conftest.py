"""One stack for all tests, removed when they are done."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.compose import standins
from tests.compose.stack import Stack, engine_runs, until, up
from tests.patience import LIMITS
from tests.programs import missing

STANDINS = os.environ.get("RILL_STANDINS")  # a script: starts a container engine and makes stand-ins for images


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: needs more than Python (nginx, Redis, Docker, Chromium); CI skips none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process runs all tests of the stack: three stacks would take three times the start, on the same two cores."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """nginx, one replica and Prometheus, healthy. Its streams are exact (bf16), so that texts can be compared."""
    if STANDINS:
        standins.make(STANDINS)
    elif not engine_runs():
        pytest.skip(missing("Docker"))
    with up("rilltest", "rill-test", "prometheus", kv_type="bf16", **LIMITS) as one:
        try:
            yield one
        finally:
            with contextlib.suppress(AssertionError):
                print(one.logs("service")[-4000:])


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


@dataclass
class Event:
    """One event of a stream, and when it arrived (time.time())."""

    id: str
    name: str
    data: dict[str, Any]
    at: float


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a stream as they arrive; the caller checks the stream's end."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            continue
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]), time.time())
            fields = {}


async def read_all(response: aiohttp.ClientResponse) -> list[Event]:
    return [event async for event in events(response)]


async def soon(condition: Callable[[], bool], within_s: float = 60) -> None:
    """`until` for a test with open streams, which are read meanwhile."""
    await asyncio.to_thread(until, condition, within_s)
