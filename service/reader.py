"""One HTTP response attached to a stream: its place in the log, its pace, its heartbeat, its write timeout.

A reader holds no events of its own: it joins the log's bytes from its place on. One clock beats for all readers (see
registry.Streams.tick), so that an event costs no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from service import sse
from service.errors import LogGap
from service.events import Phase
from service.streams import Stream

# One write: aiohttp waits for the socket after 64 KiB, so a late reader of a long log meets backpressure in between.
MAX_WRITE_BYTES = 64 << 10


class Pace:
    """When the next event is due at so many tokens a second. After a stall it goes on evenly and makes up for less
    than one interval: what was missed is not sent in a burst."""

    __slots__ = ("_due", "_interval_s")

    def __init__(self, tokens_per_s: float) -> None:
        self._interval_s = 1.0 / tokens_per_s
        self._due = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next event may leave; 0 or less: now."""
        return self._due - now

    def sent(self, n_tokens: int, now: float) -> None:
        """An event of n_tokens left."""
        late = now - self._due
        start = self._due if late < self._interval_s else now
        self._due = start + max(1, n_tokens) * self._interval_s


class Wire(Protocol):
    """A connection that takes bytes at once while it is free."""

    def is_free(self) -> bool: ...
    def write(self, chunk: bytes, /) -> None: ...


class Reader:
    """`await next()` and write what it returns, until it returns b"": the stream's end.

    Given a `wire`, a reader that has caught up writes new events to it while next() waits on: waking a task is half of
    what an event costs. Whatever else there is to do or to wait for wakes it, a connection that is full among them.
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
        "_writing_since",
        "stall",
        "stream",
        "wire",
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
        self.wire: Wire | None = None  # behind all that was written of what next() returned
        self._place = place  # index of the next event to send
        self._after = after  # id of the event before `place` that the reader has, if the log was without it
        self._is_bare = is_bare  # it knows `data` alone: no ids, no comments
        self._is_over = False
        self._pace = None if pace is None else Pace(pace)
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self._idle_since = clock()
        self._idle_wire: Wire | None = None  # while next() waits for no more than the next event
        self._is_due = False  # to be written to
        self._writing_since: float | None = None
        self._beat = place > 0  # one that resumes gets a first byte, and with it its headers, at once

    async def admitted(self) -> None:
        """Wait until the engine took the prompt, and the shared log, if there is one, has it: who is told a stream's id
        may ask another replica for it. Raises the stream's error if it ended before."""
        stream = self.stream
        await self._until(lambda: stream.phase is not Phase.SUBMITTED and (stream.n_visible > 0 or not stream.log))
        if self.stream.error is not None and not self.stream.log:
            raise self.stream.error

    async def closed(self) -> None:
        """Wait for the stream's end. Raises its error if it failed."""
        await self._until(lambda: not self.stream.open)
        if self.stream.error is not None:
            raise self.stream.error

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
                self._idle_wire = self.wire
            await self._wait(wait_s)
        return b""

    def _gap(self) -> tuple[bytes, None] | None:
        """The failure of a reader whose last event turns out to be none of this log's; None: not so, or not yet."""
        stream, id = self.stream, self._after
        is_settled = stream.n_visible >= self._place or (not stream.open and stream.n_visible == len(stream.log))
        if id is None or not is_settled:
            return None
        self._after = None
        if stream.has(self._place - 1, id):
            return None
        self._is_over = True
        return sse.gap(stream.dialect.failure(LogGap("What you have read could not be continued; start again."))), None

    def take(self, now: float) -> tuple[bytes, float | None]:
        """(events that are due, seconds until more are): b"" and None when the log holds no more."""
        place, n_visible = self._place, self.stream.n_visible
        if place >= n_visible:
            return b"", None
        if self._pace is not None and self.stream.error is not None:
            self.hurry()  # who is to learn of a failure must not wait for a reading speed
        if self._pace is not None and (weight := self.stream.weights[place]):
            wait_s = self._pace.wait_s(now)
            if wait_s > 0:
                return b"", wait_s
            self._pace.sent(weight, now)
            end = place + 1
        elif self._pace is not None or self.stream.n_bytes > MAX_WRITE_BYTES:
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
        """One write of what the last turn of the loop has brought, or what else there is to do left to next()."""
        self._is_due = False
        wire, stream, place = self._idle_wire, self.stream, self._place
        end = stream.n_visible
        if wire is None or place == end or not stream.open or not wire.is_free():
            self._rouse()
            return
        try:
            wire.write(self._events(place, end))
        except Exception:  # next() returns it to who meets the same error, and can tell the client
            self._rouse()
        else:
            self._advance(end)
            self._idle_since = self._clock()

    def _rouse(self) -> None:
        """Have who waits look at it all again."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _advance(self, end: int) -> None:
        """The events before number `end` are sent."""
        self._place = end
        if end > self.stream.n_sent:
            self.stream.n_sent = end

    def hurry(self) -> None:
        """Give up the pace: send what there is."""
        self._pace = None
        self._rouse()

    def tick(self, now: float, *, heartbeat_s: float, write_timeout_s: float) -> None:
        """Beat if nothing was sent for heartbeat_s; give up a write that has taken write_timeout_s."""
        if self._writing_since is not None:
            if now - self._writing_since >= write_timeout_s:
                self._writing_since = None
                self.stall()
        elif now - self._idle_since >= heartbeat_s:
            self._beat = True
            self._rouse()

    def _end_of_write(self, place: int) -> int:
        """The end of the events from `place` on that go out together: no paced one, and about MAX_WRITE_BYTES."""
        log, weights = self.stream.log, self.stream.weights
        n_visible = self.stream.n_visible
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
