"""Idempotency-Keys in the store: which stream each has started, at any replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from service.errors import KeyReused, NotReady
from service.replication.records import reserved_by
from service.replication.store import StoreDown
from service.streams.idempotency import digest
from service.streams.stream import Stream

TRIES, PAUSE_S = 10, 0.1  # a key is reserved a moment before its stream can be found


class ReservationStore(Protocol):
    """What is asked of the store. Each may raise StoreDown."""

    async def reserve(self, key: str, value: bytes, /) -> bytes | None: ...
    async def overwrite(self, key: str, value: bytes, /) -> None: ...
    async def free(self, key: str, value: bytes, /) -> None: ...


class Reservations:
    """`find`: the stream of an id, here or in the store; it raises NotReady. Ends with `stop`."""

    def __init__(self, store: ReservationStore, find: Callable[[str], Awaitable[Stream | None]]) -> None:
        self._store, self._find = store, find
        self._freeing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Reservations, {len(self._freeing)} being freed>"

    async def reserve(self, tenant: str, key: str, asked: object, id: str) -> Stream | None:
        """The stream that this key started; None: start it, with this id. Raises KeyReused."""
        name, its_digest = key_name(tenant, key), digest(asked)
        value = msgspec.json.encode((id, its_digest))
        with suppress(StoreDown, NotReady):
            found = await self._store.reserve(name, value)
            if found is None:
                return None
            other, first = msgspec.json.decode(found, type=tuple[str, str])
            for _ in range(TRIES):
                if stream := await self._find(other):
                    if first != its_digest:
                        raise KeyReused("This idempotency key was used for another request.", param="key")
                    return stream
                await asyncio.sleep(PAUSE_S)
            await self._store.overwrite(name, value)
        return None

    def free(self, tenant: str, key: str, id: str) -> None:
        """Nothing ran with this id: the key may start another stream. In the background; dropped if the store is down
        then."""
        task = asyncio.get_running_loop().create_task(self._free(key_name(tenant, key), id))
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)

    async def stop(self) -> None:
        """Cancel what is still being freed."""
        await end([*self._freeing])

    async def _free(self, name: str, id: str) -> None:
        with suppress(StoreDown):
            await self._store.free(name, reserved_by(id))


def key_name(tenant: str, key: str) -> str:
    """An Idempotency-Key in the store."""
    return f"{tenant}:{key}"


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel them until they are done: one that is in the middle of redis-py may swallow a cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.1)
