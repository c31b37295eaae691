"""Hostile clients: each has an API key, repeats one attack, and cancels at the end what it began."""

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

PER_S = 50.0  # requests a second of one attacker, as many as nginx allows from one address
WORD_TOKENS = 2  # the most tokens of one of WORDS, in most vocabularies


@dataclass
class Attacker:
    """One hostile client. n_ctx: the tokens that one stream may have."""

    client: aiohttp.ClientSession
    n_ctx: int
    rng: random.Random
    got: Counter[str] = field(default_factory=Counter)  # responses by status or failure code
    begun: list[str] = field(default_factory=list)  # ids of streams without a reader
    numbers: Iterator[int] = field(default_factory=count)

    def words(self, n: int) -> str:
        """A prompt that no other request has."""
        return f"{next(self.numbers)} " + " ".join(self.rng.choices(WORDS, k=n))

    def long_words(self, share: float) -> str:
        """A prompt of about this share of a context."""
        return self.words(int(share * self.n_ctx / WORD_TOKENS))

    async def post(self, path: str, body: bytes | dict[str, Any]) -> bytes:
        """The whole answer; its status is counted."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self.client.post(path, data=raw) as response:
            answer = await response.read()
            self.got[str(response.status)] += 1
            return answer

    async def begin(self, body: dict[str, Any]) -> bool:
        """Starts a stream without a reader; returns whether it was accepted."""
        answer = orjson.loads(await self.post("/v1/streams", body))
        if "id" in answer:
            self.begun.append(answer["id"])
        return "id" in answer

    async def cancel_begun(self) -> None:
        """Cancels what it began, so that the next turn is as quiet as the first."""
        for id in self.begun:
            with suppress(aiohttp.ClientError, TimeoutError):
                (await self.client.delete(f"/v1/streams/{id}")).close()
        self.begun.clear()


Attack = Callable[[Attacker], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """An attack: by how many attackers, and how many concurrent loops of each."""

    name: str
    attack: Attack
    n_attackers: int = 4
    n_loops: int = 1


@asynccontextmanager
async def attacking(kind: Kind, url: str, keys: list[str], n_ctx: int, salt: str) -> AsyncIterator[Counter[str]]:
    """Runs the attackers of this kind while the context lasts; yields their responses."""
    got: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        attackers = []
        for i, key in enumerate(keys[: kind.n_attackers]):
            session = await stack.enter_async_context(client(url, key))
            attackers.append(Attacker(session, n_ctx, random.Random(f"{salt} {i}"), got))
        loops = [
            asyncio.create_task(again_and_again(kind, attacker)) for attacker in attackers for _ in range(kind.n_loops)
        ]
        try:
            yield got
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await asyncio.gather(*[attacker.cancel_begun() for attacker in attackers])
        for loop in loops:  # an error in the attack's own code
            if not loop.cancelled() and (error := loop.exception()) is not None:
                raise error


async def again_and_again(kind: Kind, attacker: Attacker) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        with forgiving(attacker):
            await kind.attack(attacker)
        await asyncio.sleep(max(0.001, began + kind.n_loops / PER_S - clock()))


@contextmanager
def forgiving(attacker: Attacker) -> Iterator[None]:
    """Counts a broken connection, and continues."""
    try:
        yield
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as e:
        attacker.got[type(e).__name__] += 1
