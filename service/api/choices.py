"""Requests for several answers: their streams are started together, and read, resumed and ended as one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from aiohttp import web

from service.api.access import Access
from service.api.merge import Merge
from service.api.receipt import receipt
from service.api.respond import abort, begun, note, whole
from service.api.wire import Wire
from service.dialects.openai import Chunks, Whole, usage_of
from service.errors import StreamLost
from service.streams.choices import Combined, Place
from service.streams.directory import Directory
from service.streams.reader import Reader
from service.streams.stream import Stream


class Choices:
    """The streams of combined ids, here or at another replica."""

    def __init__(self, directory: Directory, access: Access) -> None:
        self._directory, self._access = directory, access

    async def locate(self, request: web.Request, combined: Combined) -> list[Stream] | None:
        """Its streams, which the request may read; None: they no longer exist. Raises NotReady, Unauthorized,
        Forbidden."""
        streams = [await self._directory.locate(id) for id in combined.ids]
        found = [stream for stream in streams if stream is not None]
        for stream in found:
            self._access.check_reader(request, stream.tenant)
        if len(found) < len(streams):
            return None
        note(request, found[0], attached=True)
        return found

    async def send(
        self,
        request: web.Request,
        combined: Combined,
        streams: list[Stream],
        *,
        place: Place | None = None,
        pace: float | None = None,
        is_bare: bool = False,
    ) -> web.StreamResponse:
        """Write all events after `place`, as they come, until each stream is closed and read, or one has failed.

        Raises the error of one that ended before the engine accepted its prompt; nothing is sent then."""
        attach, stall = self._directory.streams.attach, partial(abort, request)
        place = place or Place.start(combined)
        with ExitStack() as stack:
            readers = [
                stack.enter_context(
                    attach(s, place=_next(last), after=_missing(s, last), pace=pace, is_bare=is_bare, stall=stall)
                )
                for s, last in zip(streams, place.event_ids(), strict=True)
            ]
            try:
                await _together(reader.admitted() for reader in readers)
                response = await begun(request, combined.id)
                merge = Merge(Wire.of(request, response), place, is_bare=is_bare)
                if await _all_read(readers, merge) and (tail := merge.tail(_tail(combined, streams))):
                    await merge.wire.send(tail)
            finally:
                if any(stream.error for stream in streams):
                    await self.end(streams)
        await response.write_eof()
        return response

    async def whole(self, combined: Combined, streams: list[Stream]) -> web.Response:
        """All answers, once they are complete. Raises the first error; the others are cancelled then."""
        with ExitStack() as stack:
            attach = self._directory.streams.attach
            readers = [stack.enter_context(attach(stream, stall=lambda: None)) for stream in streams]
            try:
                await _together(reader.closed() for reader in readers)
            finally:
                if any(stream.error for stream in streams):
                    await self.end(streams)
        return whole(combined.id, _whole(combined, streams))

    def receipt(self, combined: Combined, streams: list[Stream]) -> web.Response:
        """Each stream's receipt, in the choices' order."""
        body = {"id": combined.id, "choices": [receipt(stream) for stream in streams]}
        return web.json_response(body, headers={"Cache-Control": "no-store"})

    async def end(self, streams: list[Stream]) -> None:
        """Cancel those that run. Raises NotReady if an owner is unreachable."""
        for stream in streams:
            if stream.open:
                await self._directory.end(stream)


def is_read(place: Place, streams: list[Stream]) -> bool:
    """Whether nothing follows: all is over and read, or a failure was."""
    is_over = [
        not s.open and s.log.n_visible == len(s.log) == _next(last)
        for s, last in zip(streams, place.event_ids(), strict=True)
    ]
    if any(over and s.error is not None for over, s in zip(is_over, streams, strict=True)):
        return True
    return all(is_over) and place.n_tail >= len(_tail(place.combined, streams))


def _next(event_id: str) -> int:
    """The number of the event after this one."""
    return int(event_id.split(".")[1]) + 1 if event_id else 0


def _missing(stream: Stream, event_id: str) -> str | None:
    """The event that the reader has, if the log lacks it so far. Raises StreamLost where it can't come any more."""
    if not event_id or stream.log.has(_next(event_id) - 1, event_id):
        return None
    if not stream.migrated:
        raise StreamLost("This stream no longer exists; start a new one.")
    return event_id


async def _together(waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; raises the first error, whichever it is of."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _all_read(readers: list[Reader], merge: Merge) -> bool:
    """Send all; False: one ended with a failure, which was sent, and the others were left."""
    reading = {asyncio.create_task(reader.send(merge.of(k))): reader for k, reader in enumerate(readers)}
    pending = set(reading)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if any(reading[task].has_failed for task in done):
                return False
    finally:
        for task in pending:
            task.cancel()
    return True


def _tail(combined: Combined, streams: list[Stream]) -> list[bytes]:
    dialect = streams[0].dialect
    assert isinstance(dialect, Chunks)
    return dialect.tail(_usage(combined, streams))


def _whole(combined: Combined, streams: list[Stream]) -> dict[str, Any]:
    answers = [(s.dialect, s.summary) for s in streams]
    choices = [d.choice(summary) for d, summary in answers if isinstance(d, Whole) and summary is not None]
    dialect = streams[0].dialect
    assert isinstance(dialect, Whole)
    return dialect.together(choices, _usage(combined, streams))


def _usage(combined: Combined, streams: list[Stream]) -> dict[str, Any]:
    return usage_of([s.summary for s in streams if s.summary is not None], combined.n)
