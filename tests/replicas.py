"""Several replicas, or several runs of one, in one process: scripted engines with the real log between them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from service.replication.replicator import Replication
from service.replication.reservations import end
from service.replication.store import StoreDown
from service.streams.stream import Stream
from tests.conftest import Service
from tests.events import Event, parse, text
from tests.fakes import PROMPT
from tests.patience import PATIENCE_S


async def until(condition: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Waits for a condition on another replica, of which there is no notification here."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def stand_still(service: Service) -> None:
    """Stops its replication tasks; its engine keeps running."""
    await end(replication(service)._tasks)


async def suspend(service: Service) -> None:
    """Cuts it off from the store, while it keeps running."""
    await stand_still(service)
    writer = replication(service).writer
    writer.held_until = math.inf  # its requests get no answer: see Leases.run
    writer._go_ahead()


def resume(service: Service) -> None:
    """Reconnects it to the store."""
    replication(service).start()


def wake(service: Service) -> None:
    """It runs again, and first learns that its last request to the store has timed out."""
    replication(service).writer._fail(StoreDown("time-out"), is_news=True)
    resume(service)


async def kill(service: Service) -> None:
    """It dies at once: nothing is flushed or sent, and every connection is cut."""
    await suspend(service)
    replication(service).writer.copies.clear()
    for reader in list(service.rill.streams._readers):
        reader.stall()
    service.engine.by_hand = True


async def begun(service: Service, *texts: str, path: str = "/stream", body: dict[str, Any] = PROMPT) -> str:
    """A stream with these texts, and without a reader."""
    n = len(service.engine.submitted) + 1
    asking = asyncio.create_task(service.client.post(path, json=body, headers={"X-Resumable": "1"}))
    id = (await service.engine.submission(n)).id
    service.engine.accept(id)
    (await asking).close()
    service.engine.delta(id, *texts)
    return id


def stream_of(service: Service, id: str) -> Stream:
    stream = service.rill.streams.find(id)
    assert stream is not None
    return stream


def replication(service: Service) -> Replication:
    assert service.rill.replication is not None
    return service.rill.replication


def is_durable(service: Service, id: str) -> bool:
    stream = service.rill.streams.find(id)
    return stream is not None and stream.log.is_durable and stream.log.n_visible == len(stream.log)


async def first_events(service: Service, id: str, n: int, **headers: str) -> list[Event]:
    """The first n events that a reader gets; then it leaves."""
    async with service.client.get(f"/v1/streams/{id}", headers=headers) as response:
        raw = b""
        while len(parse(raw)) < n:
            raw += await response.content.readany()
    return parse(raw)[:n]


async def receipt(service: Service, id: str) -> dict[str, Any]:
    async with service.client.get(f"/v1/streams/{id}", headers={"Accept": "application/json"}) as response:
        found: dict[str, Any] = await response.json()
        return found


async def check_beyond(heir: Service, id: str, has: list[Event], words: tuple[str, ...], ends: str) -> None:
    """A reader of a, b and c, of which the log has only a, continues if these words follow in the log, then d."""
    async with heir.client.get("/stream", headers={"Last-Event-ID": has[-1].id}) as response:
        heir.engine.accept(id)
        heir.engine.delta(id, *words, "d")
        heir.engine.finish(id)
        rest = parse(await response.read())
    assert rest[-1].name == ends
    if ends == "done":
        assert text(has + rest) == "abcd"
    else:
        assert (len(rest), rest[0].json()["error"]["code"]) == (1, "log_gap")
