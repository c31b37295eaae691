"""Hands the resumable streams of a replica that is being stopped over to the others."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from service.replication.remote_streams import RemoteStreams
from service.replication.store import StoreDown
from service.replication.writer import Writer

log = logging.getLogger("service.replication")

HAND_OVER_S = 5.0  # of a stopping process: streams not handed over by then are adopted a lease later


class HandoverStore(Protocol):
    """What is asked of the store. It may raise StoreDown."""

    async def hand_over(self, owned: list[tuple[str, int]], /) -> None: ...


async def hand_over(store: HandoverStore, writer: Writer, remote: RemoteStreams) -> None:
    """Write what they have, give them up, and let their leases expire. What is not handed over in time, or because the
    store is down, is adopted when its lease expires."""
    try:
        async with asyncio.timeout(HAND_OVER_S):
            n = await _hand_over(store, writer, remote)
    except TimeoutError:
        log.warning("the streams could not be handed over", extra={"reason": f"it took {HAND_OVER_S:g} s"})
    except StoreDown as e:
        log.warning("the streams could not be handed over", extra={"reason": str(e)})
    else:
        log.info("handed over", extra={"streams": n})


async def _hand_over(store: HandoverStore, writer: Writer, remote: RemoteStreams) -> int:
    await writer.flush()  # also when it is behind: that may be one slow write
    given = [copy for copy in writer.copies.values() if copy.stream.open and copy.stream.grace_s]
    for copy in given:
        remote.give_up(copy.stream)
    while any(copy.is_due for copy in given if writer.copies.get(copy.stream.id) is copy):
        await writer.flush()
        await asyncio.sleep(0)  # a flush that finds nothing to write does not wait
    for copy in given:
        writer.copies.pop(copy.stream.id, None)
    await store.hand_over([(copy.stream.id, copy.epoch) for copy in given])
    return len(given)
