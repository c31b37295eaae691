"""Hostile clients: each has an API key, does one thing again and again, and takes back what it began at the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp
import orjson

from tests.bench.load import WORDS, client

PER_S = 50.0  # requests a second of one foe, which is what nginx lets through from one address
WORD_TOKENS = 2  # no more than these of WORDS, of most vocabularies


@dataclass
class Foe:
    """One of them. n_ctx: tokens that one stream may have."""

    client: aiohttp.ClientSession
    n_ctx: int
    rng: random.Random
    got: Counter[str] = field(default_factory=Counter)  # how often each status, or a failure's code
    begun: list[str] = field(default_factory=list)  # ids of streams that nobody reads
    numbers: Iterator[int] = field(default_factory=count)

    def words(self, n: int) -> str:
        """A prompt that nobody else has, nor this one again."""
        return f"{next(self.numbers)} " + " ".join(self.rng.choices(WORDS, k=n))

    def long_words(self, share: float) -> str:
        """So much of a context, about."""
        return self.words(int(share * self.n_ctx / WORD_TOKENS))

    async def post(self, path: str, body: bytes | dict[str, Any]) -> bytes:
        """The whole answer; what it came to is noted."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.client.post(path, data=raw) as response:
            answer = await response.read()
            self.got[str(response.status)] += 1
            return answer

    async def begin(self, body: dict[str, Any]) -> bool:
        """Start a stream that nobody reads; whether it was taken."""
        answer = orjson.loads(await self.post("/v1/streams", body))
        if "id" in answer:
            self.begun.append(answer["id"])
        return "id" in answer

    async def take_back(self) -> None:
        """Cancel what it began: the next turn is to be as quiet as the first."""
        for id in self.begun:
            with suppress(aiohttp.ClientError, TimeoutError):
                (await self.client.delete(f"/v1/streams/{id}")).close()
        self.begun.clear()


Attack = Callable[[Foe], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """An attack, by so many foes, each of whom does it so often at once."""

    name: str
    attack: Attack
    n_foes: int = 4
    n_loops: int = 1


@asynccontextmanager
async def at_work(kind: Kind, url: str, keys: list[str], n_ctx: int, salt: str) -> AsyncIterator[Counter[str]]:
    """The foes of this kind, while the context lasts; what they got."""
    got: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        foes = []
        for i, key in enumerate(keys[: kind.n_foes]):
            session = await stack.enter_async_context(client(url, key))
            foes.append(Foe(session, n_ctx, random.Random(f"{salt} {i}"), got))
        loops = [asyncio.create_task(again_and_again(kind, foe)) for foe in foes for _ in range(kind.n_loops)]
        try:
            yield got
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await asyncio.gather(*[foe.take_back() for foe in foes])
        for loop in loops:  # a mistake of ours is no attack
            if not loop.cancelled() and (error := loop.exception()) is not None:
                raise error


async def again_and_again(kind: Kind, foe: Foe) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        with forgiving(foe):
            await kind.attack(foe)
        await asyncio.sleep(max(0.001, began + kind.n_loops / PER_S - clock()))


@contextmanager
def forgiving(foe: Foe) -> Iterator[None]:
    """A connection that broke is noted, and no reason to stop."""
    try:
        yield
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as e:
        foe.got[type(e).__name__] += 1
