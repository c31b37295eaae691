"""replicator.py by itself: what happens to this replica's streams when its process ends."""

from __future__ import annotations

import asyncio

from service.protocol.frames import Accepted, Step
from service.replication.records import LogPosition
from service.replication.replicator import Replication
from service.replication.store import Write
from tests.house import House, Observer
from tests.memory_store import MemoryStore
from tests.patience import PATIENCE_S


class RecordingObserver(Observer):
    """Also accepts replication's notifications."""

    def acknowledged(self, lag_s: float, /) -> None: ...
    def fenced(self) -> None: ...
    def adopted(self) -> None: ...


class ClaimedStore(MemoryStore):
    """During its next write one more token is generated, and another replica claims the stream."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self.id, self._house = "", house

    async def write(self, writes: list[Write]) -> list[LogPosition]:
        places = await super().write(writes)
        if self.id:
            id, self.id = self.id, ""
            self._house.streams.live.deliver(Step(deltas=[(id, [6], " upon")]))
            self._append(id, LogPosition(2, 0), b"")
        return places


async def test_a_hand_over_ends() -> None:
    """Also of a stream that another replica claims while its last events are written."""
    house = House()
    store = ClaimedStore(house)
    replication = Replication(
        store=store,
        streams=house.streams,
        observer=RecordingObserver(),
        log_wait_s=1.0,
        store_prompts=True,
        model=lambda: "digest",
    )
    stream = house.open(resumable=True)
    replication.opened(stream, None)
    house.streams.live.deliver(Accepted(stream.id, 3, 100))
    await replication.writer.flush()
    house.streams.live.deliver(Step(deltas=[(stream.id, [5], "Once")]))
    store.id = stream.id
    async with asyncio.timeout(PATIENCE_S):
        await replication.hand_over()
    assert replication.writer.copies == {}
