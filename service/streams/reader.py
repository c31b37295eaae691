"""One HTTP response attached to a stream: its log position, its pace, its heartbeat, its write timeout.

A reader holds no events of its own: it joins the log's bytes from its position on. One timer serves all readers (see
registry.Streams.tick), so an event costs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from service.dialects import sse
from service.dialects.events import Phase
from service.errors import LogGap
from service.streams.pace import Pace
from service.streams.stream import Stream

# One write: aiohttp waits for the socket after 64 KiB, so a late reader of a long log meets backpressure in between.
MAX_WRITE_BYTES = 64 << 10


class Connection(Protocol):
    """A connection that writes at once while it is free, and else when it has room."""

    def is_free(self) -> bool: ...
    def write(self, chunk: bytes, /) -> None: ...
    @property
    def send(self) -> Callable[[bytes], Awaitable[None]]: ...


class Reader:
    """`send` writes the stream to a wire, until its end.

    A reader that has caught up writes new events at once, while its task keeps waiting: waking a task is half of an
    event's cost. Anything else to do or to wait for wakes the task, a full connection included.
    """

    __slots__ = (
        "_after",
        "_beat",
        "_clock",
        "_idle_since",
        "_idle_wire",
        "_is_bare",
        "_is_due",
        "_is_over",
        "_pace",
        "_place",
        "_waiter",
        "_wire",
        "_writing_since",
        "stall",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        *,
        place: int = 0,
        after: str | None = None,
        pace: float | None = None,
        is_bare: bool = False,
        clock: Callable[[], float],
        stall: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream = stream
        self.stall = stall  # called when a write has taken too long
        self._wire: Connection | None = None  # direct writes follow what next() returned
        self._place = place  # index of the next event to send
        self._after = after  # id of the event before `place` that the reader has, if the log lacked it
        self._is_bare = is_bare  # it knows `data` alone: no ids, no comments
        self._is_over = False
        self._pace = None if pace is None else Pace(pace)
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self._idle_since = clock()
        self._idle_wire: Connection | None = None  # while next() waits only for the next event
        self._is_due = False  # write scheduled
        self._writing_since: float | None = None
        self._beat = place > 0  # one that resumes gets a first byte, and with it its headers, at once

    async def admitted(self) -> None:
        """Wait until the engine accepted the prompt, and the shared log, if any, has that: a client with a
        stream's id may ask another replica for it. Raises the stream's error if it ended before."""
        stream = self.stream
        await self._until(lambda: stream.phase is not Phase.SUBMITTED and (stream.log.n_visible > 0 or not stream.log))
        if self.stream.error is not None and not self.stream.log:
            raise self.stream.error

    async def closed(self) -> None:
        """Wait for the stream's end. Raises its error if it failed."""
        await self._until(lambda: not self.stream.open)
        if self.stream.error is not None:
            raise self.stream.error

    async def send(self, wire: Connection) -> None:
        """Write all events from its place on, until the stream is closed and read. Raises what the wire raises."""
        self._wire = wire
        while chunk := await self.next():
            await wire.send(chunk)
            del chunk  # the next one may be long in coming

    @property
    def has_failed(self) -> bool:
        """Whether the stream ended with a failure, or could not be continued after the reader's last event."""
        return self._is_over or self.stream.error is not None

    async def next(self) -> bytes:
        """The bytes to write next: events, or a heartbeat; b"" when the stream is closed and read to its end."""
        self._writing_since = None
        while not self._is_over:
            now = self._clock()
            chunk, wait_s = self._gap() or self.take(now)
            if not chunk and self._beat:
                chunk = self.stream.dialect.heartbeat() if self._is_bare else sse.HEARTBEAT
            if chunk:
                self._beat = False
                self._idle_since = self._writing_since = now
                return chunk
            if wait_s is None and not self.stream.open and self._place >= len(self.stream.log):
                return b""
            if self._pace is None and self._after is None:
                self._idle_wire = self._wire
            await self._wait(wait_s)
        return b""

    def _gap(self) -> tuple[bytes, None] | None:
        """The failure for a reader with a last event that is not in this log; None: it is, or that is not known yet."""
        stream, id = self.stream, self._after
        is_settled = stream.log.n_visible >= self._place or (
            not stream.open and stream.log.n_visible == len(stream.log)
        )
        if id is None or not is_settled:
            return None
        self._after = None
        if stream.log.has(self._place - 1, id):
            return None
        self._is_over = True
        return sse.gap(
            stream.dialect.failure(
                LogGap("The stream could not be continued after the events already read; start again.")
            )
        ), None

    def take(self, now: float) -> tuple[bytes, float | None]:
        """(events that are due, seconds until more are): b"" and None when the log holds no more."""
        place, n_visible = self._place, self.stream.log.n_visible
        if place >= n_visible:
            return b"", None
        if self._pace is not None and self.stream.error is not None:
            self.hurry()  # a failure must not be delayed by the pace
        if self._pace is not None and (weight := self.stream.log.weights[place]):
            wait_s = self._pace.wait_s(now)
            if wait_s > 0:
                return b"", wait_s
            self._pace.sent(weight, now)
            end = place + 1
        elif self._pace is not None or self.stream.log.n_bytes > MAX_WRITE_BYTES:
            end = self._end_of_write(place)
        else:
            end = n_visible
        self._advance(end)
        return self._events(place, end), None

    def _events(self, place: int, end: int) -> bytes:
        events = self.stream.log[place:end]
        return b"".join(map(sse.bare, events) if self._is_bare else events)

    def wake(self) -> None:
        """The log has grown, or the phase has changed."""
        if self._idle_wire is None:
            self._rouse()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._write_through)

    def _write_through(self) -> None:
        """One write of the events of the last loop iteration; anything else to do is left to next()."""
        self._is_due = False
        wire, stream, place = self._idle_wire, self.stream, self._place
        end = stream.log.n_visible
        if wire is None or place == end or not stream.open or not wire.is_free():
            self._rouse()
            return
        try:
            wire.write(self._events(place, end))
        except Exception:  # next() returns it to send(), which meets and reports the same error
            self._rouse()
        else:
            self._advance(end)
            self._idle_since = self._clock()

    def _rouse(self) -> None:
        """Have the waiting task check again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _advance(self, end: int) -> None:
        """The events before number `end` are sent."""
        self._place = end
        if end > self.stream.log.n_sent:
            self.stream.log.n_sent = end

    def hurry(self) -> None:
        """Give up the pace: send what there is."""
        self._pace = None
        self._rouse()

    def tick(self, now: float, *, heartbeat_s: float, write_timeout_s: float) -> None:
        """Send a heartbeat after heartbeat_s of silence; give up a write after write_timeout_s."""
        if self._writing_since is not None:
            if now - self._writing_since >= write_timeout_s:
                self._writing_since = None
                self.stall()
        elif now - self._idle_since >= heartbeat_s:
            self._beat = True
            self._rouse()

    def _end_of_write(self, place: int) -> int:
        """The end of the events from `place` on that go out together: no paced one, and about MAX_WRITE_BYTES."""
        log, weights = self.stream.log, self.stream.log.weights
        n_visible = self.stream.log.n_visible
        size, end = 0, place
        while end < n_visible and size < MAX_WRITE_BYTES and not (self._pace is not None and weights[end]):
            size += len(log[end])
            end += 1
        return end

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._wait(None)

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._rouse)
        try:
            await self._waiter
        finally:
            self._waiter = self._idle_wire = None
            if timer is not None:
                timer.cancel()

    def __repr__(self) -> str:
        return f"<Reader at {self._place} of {len(self.stream.log)} in {self.stream.id[:8]}>"
