"""One stream: a generation and its log of events. Phases are in TABLE; nothing else assigns .phase; it closes once.

The log holds each event's bytes, encoded once, in the dialect the stream was started with; an event's index is the
number in its id. What a continuation would need (the Submit, the delivered token ids) is kept beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from service import sse
from service.admission import Ticket
from service.engine.protocol import Finish, Submit
from service.errors import RillError
from service.events import Dialect, Phase, Status, Summary

Event = Literal["wait", "think", "answer", "close"]

TABLE: dict[Phase, dict[Event, Phase]] = {
    Phase.SUBMITTED: {"wait": Phase.QUEUED, "think": Phase.THINKING, "close": Phase.CLOSED},
    Phase.QUEUED: {
        "wait": Phase.QUEUED,
        "think": Phase.THINKING,
        "answer": Phase.ANSWERING,
        "close": Phase.CLOSED,
    },
    Phase.THINKING: {
        "wait": Phase.QUEUED,
        "think": Phase.THINKING,
        "answer": Phase.ANSWERING,
        "close": Phase.CLOSED,
    },
    # A preempted stream waits and thinks again inside the engine; to its readers it only pauses.
    Phase.ANSWERING: {"answer": Phase.ANSWERING, "close": Phase.CLOSED},
    Phase.CLOSED: {},
}

# What a stream costs beside its events' bytes, as tracemalloc finds: the object with dialect and summary; an event's
# header and places in lists; a token's number and place.
STREAM_BYTES, EVENT_BYTES, TOKEN_BYTES = 3000, 60, 36

# The event that leads into a phase.
_INTO: dict[Phase, Event] = {Phase.QUEUED: "wait", Phase.THINKING: "think", Phase.ANSWERING: "answer"}


class Listener(Protocol):
    """Who wants to know that the log has grown or the phase has changed."""

    def wake(self) -> None: ...


class Stream:
    """A generation's log. `closed` is told once, when it ends; `gap` each time between two deltas, in seconds.

    Times are the caller's, monotonic, in seconds.
    """

    __slots__ = (
        "_checksum", "_closed", "_gap", "_last_words", "_n_held", "_retry", "_wire_id", "accepted", "arrived_at",
        "closed_at", "dialect", "durable", "error", "exact", "first_at", "grace_s", "grown", "id", "last_at", "log",
        "n_before_end", "n_bytes", "n_lives", "n_prompt", "n_sent", "n_visible", "outcome", "phase", "readers",
        "route", "started_at", "submit", "summary", "tenant", "ticket", "tokens", "travelled", "waits_since",
        "weights",
    )  # fmt: skip

    def __init__(
        self,
        *,
        submit: Submit,
        dialect: Dialect,
        ticket: Ticket,
        route: str,
        arrived_at: float,
        retry: bytes = b"",
        tenant: str = "",
        grace_s: float = 0.0,
        closed: Callable[[Stream], None] = lambda stream: None,
        gap: Callable[[float], None] = lambda gap_s: None,
    ) -> None:
        self.id = submit.id
        self.submit = submit
        self.route = route
        self.tenant = tenant
        self.grace_s = grace_s  # how long it runs on when its last reader has left
        self.ticket = ticket
        self.phase = Phase.SUBMITTED
        self.log: list[bytes] = []
        self.weights: list[int] = []  # tokens in each event of the log: what `pace` counts
        self.tokens: list[int] = []  # every token id delivered so far
        self.readers: list[Listener] = []
        self.n_visible = 0  # events of the log that readers may have
        self.durable = False  # these are in the store; else they are all that there are
        self.grown: Callable[[Stream], None] | None = None  # told of each event, and of the end, if it goes to a store
        self.travelled = False  # more than one replica has it: a reader may have events that are not here (yet)
        self.n_before_end: int | None = None  # events before those that end it
        self.error: RillError | None = None
        self.summary: Summary | None = None
        self.outcome = ""
        self.n_prompt = 0
        self.n_bytes = 0  # of the log, or of an answer in one piece
        self.n_sent = 0  # events that some reader was sent
        self.accepted = False  # the engine took its prompt, and its id may have been told
        self.arrived_at = arrived_at
        self.waits_since = arrived_at  # at this replica
        self.started_at: float | None = None
        self.first_at: float | None = None
        self.last_at = arrived_at
        self.closed_at: float | None = None
        self.dialect = dialect
        self._retry = retry
        self._closed = closed
        self._gap = gap
        self._wire_id = submit.id.encode()
        self._checksum = 0  # CRC-32 of the text so far: what an id says of all that stands before it
        self._n_held = 0  # tokens whose text has not come yet
        self._last_words: tuple[str, int] | None = None  # text that came with its end, and its tokens
        self.n_lives = 0  # engines that were sent it
        self.exact: bool | None = None  # whether they all promise that the same request gives the same text

    @property
    def open(self) -> bool:
        return self.phase is not Phase.CLOSED

    def submission(self, exact: bool) -> Submit:
        """What to send to an engine that knows nothing of it: the request, and what was delivered of its answer.

        exact: what that engine promises. What another replica began stays unknown.
        """
        self.exact = exact if not self.n_lives else self.exact and exact
        self.n_lives += 1
        self._n_held, self._last_words = 0, None
        return replace(self.submit, delivered=list(self.tokens)) if self.tokens else self.submit

    @property
    def n_kept_bytes(self) -> int:
        """About what is kept of it when it has ended."""
        return STREAM_BYTES + self.n_bytes + EVENT_BYTES * len(self.log) + TOKEN_BYTES * len(self.tokens)

    def has(self, n: int, id: str) -> bool:
        """Whether event number n is logged, under this id."""
        return n < len(self.log) and sse.head(self.log[n]) == b"id: %b" % id.encode()

    def accept(self, n_prompt: int, eta_s: float) -> None:
        """The engine takes the prompt: the first event says whether it waits or is about to be read."""
        if self.phase is not Phase.SUBMITTED:
            return
        self.n_prompt = n_prompt
        if self.ticket.place:
            self._move("wait")
            status = Status(Phase.QUEUED, self.ticket.place, round(eta_s, 1))
        else:
            self._move("think")
            status = self._thinking(0)
        if body := self.dialect.opening(status):
            self._append(self._retry + sse.block(self._wire_id, 0, self._checksum, body), 0)

    def queued(self, position: int, eta_s: float) -> None:
        """It waits at this position now; the next to run has 1."""
        if self._move("wait"):
            self._say(self.dialect.status(Status(Phase.QUEUED, position, round(eta_s, 1))))

    def prefill(self, n_done: int, n_prompt: int, now: float) -> None:
        """The engine has read n_done of n_prompt tokens."""
        if self._move("think"):
            if self.started_at is None:
                self.started_at = now
                self.ticket.start(now)
            self.n_prompt = n_prompt
            self._say(self.dialect.status(self._thinking(n_done)))

    def delta(self, tokens: list[int], text: str, now: float, *, is_last: bool = False) -> None:
        """These tokens came, and made this text deliverable (which may be none yet).

        is_last: the end, which is about to come, made some of it deliverable, so that it is a part of it: who goes on
        behind these tokens without the end would say it again.
        """
        if self.phase is not Phase.ANSWERING:
            if not self._move("answer"):
                return
            if self.started_at is None:
                self.started_at = now
                self.ticket.start(now)
            self._say(self.dialect.status(Status(Phase.ANSWERING)))
        self.tokens += tokens
        self._n_held += len(tokens)
        if text:
            if self.first_at is None:
                self.first_at = now
            elif now > self.last_at:  # else one step made them
                self._gap(now - self.last_at)
            self.last_at = now
            weight, self._n_held = self._n_held, 0
            if is_last:
                self._last_words = text, weight
            else:
                self._say_text(text, weight)

    def finish(self, finish: Finish, now: float) -> None:
        """The engine is done with it."""
        summary = replace(
            self._summary_so_far(now),
            finish_reason=finish.reason,
            n_prompt=finish.n_prompt,
            n_cached=finish.n_cached,
            n_generated=finish.n_generated,
        )
        if self.n_lives <= 1:  # the engine's clock is closer to the work, but knows only its own life
            summary = replace(summary, queue_s=finish.queue_s, prefill_s=finish.prefill_s, decode_s=finish.decode_s)
        self._close(finish.reason, summary, None, now)

    def cancel(self, outcome: str, now: float) -> None:
        """End it as cancelled, here and now: the engine frees the sequence by itself within a step."""
        self._close(outcome, self._summary_so_far(now), None, now)

    def fail(self, error: RillError, now: float) -> None:
        """End it with the one failure event; before it was accepted, `error` is its readers' to answer with."""
        self._close(error.outcome, self._summary_so_far(now), error, now)

    def _close(self, outcome: str, summary: Summary, error: RillError | None, now: float) -> None:
        if not self._end(outcome, summary, error, now):
            return
        if self._last_words is not None:
            self._say_text(*self._last_words)
        if error is not None:
            if self.accepted:
                self._say(self.dialect.failure(error))
        else:
            for body in self.dialect.done(summary):
                self._say(body)
        self.ticket.release(now)
        self._closed(self)
        if self.grown is not None:
            self.grown(self)
        self._wake()

    def _end(self, outcome: str, summary: Summary, error: RillError | None, now: float) -> bool:
        """Its one end: the events that follow tell it. False: it had one."""
        if not self._move("close"):
            return False
        self.outcome, self.summary, self.error, self.closed_at = outcome, summary, error, now
        self.n_before_end = len(self.log)
        self.submit = self.submit.without_prompt()  # which nobody needs any more
        return True

    def _move(self, event: Event) -> bool:
        phase = TABLE[self.phase].get(event)
        if phase is None:
            return False
        self.accepted |= phase is not Phase.CLOSED
        self.phase = phase
        return True

    def _say_text(self, text: str, weight: int) -> None:
        self._checksum = zlib.crc32(text.encode(), self._checksum)
        body = self.dialect.delta(text)
        self.n_bytes += 0 if body else len(text)  # the dialect keeps it
        self._say(body, weight)

    def _say(self, body: bytes, weight: int = 0) -> None:
        if body:
            self._append(sse.block(self._wire_id, len(self.log), self._checksum, body), weight)

    def _append(self, event: bytes, weight: int) -> None:
        self.log.append(event)
        self.weights.append(weight)
        self.n_bytes += len(event)
        if self.grown is not None:
            self.grown(self)
        if not self.durable:
            self.n_visible = len(self.log)
            self._wake()

    # What the store says.

    def acknowledge(self, n: int) -> None:
        """The first n events are in the store; when these are all, the next ones wait for it again."""
        if n > self.n_visible:
            self.n_visible = n
            self._wake()
        if n == len(self.log):
            self.durable = True

    def go_ahead(self) -> None:
        """The store takes too long: readers get what there is."""
        self.durable = False
        self.n_visible = len(self.log)
        self._wake()

    def copy(self, event: bytes, tokens: list[int], phase: Phase) -> None:
        """Another replica logged this event."""
        self._move(_INTO[phase])
        self.tokens += tokens
        self._append(event, len(tokens))
        self.n_visible = len(self.log)
        self._wake()

    def copy_end(
        self, events: list[bytes], outcome: str, summary: Summary, error: RillError | None, text: str, now: float
    ) -> None:
        """Another replica logged its end: its last events, and what it amounted to."""
        if self._end(outcome, summary, error, now):
            self.n_prompt = summary.n_prompt
            if text:
                self.dialect.delta(text)
            for event in events:
                self._append(event, 0)
            self.accepted = True
            self.n_visible = len(self.log)
            self._wake()

    def take_over(self, ticket: Ticket, now: float) -> None:
        """From here on it is generated here, behind what is logged."""
        self.ticket, self.waits_since = ticket, now
        self.submit = replace(self.submit, is_owed=True)
        self.n_lives = max(1, self.n_lives)
        self._rewind()
        if self.tokens:
            # When it really began only its first owner knew: all of it counts as decoding, and no TTFT is told.
            self.started_at = self.first_at = self.arrived_at
            self.last_at = now
            ticket.start(now)

    def take_back(self, dialect: Dialect) -> None:
        """Forget what no reader has had, as if it had not been made: another replica says what comes there.

        dialect: the one it was begun with, afresh.
        """
        n = self.n_visible
        self.n_bytes -= sum(map(len, self.log[n:]))
        del self.tokens[sum(self.weights[:n]) :], self.log[n:], self.weights[n:]
        self._rewind()
        self.dialect = dialect

    def _rewind(self) -> None:
        """What comes next comes behind the last event of the log."""
        self._n_held = 0
        self._checksum = sse.checksum(self.log[-1]) if self.log else 0

    def give_up(self, now: float) -> None:
        """From here on another replica generates it."""
        self.grown, self.travelled = None, True
        self.ticket.release(now)

    def _wake(self) -> None:
        for reader in self.readers:
            reader.wake()

    def _thinking(self, n_done: int) -> Status:
        progress = round(n_done / self.n_prompt, 3) if self.n_prompt else 0.0
        return Status(Phase.THINKING, progress=progress, n_done=n_done, n_prompt=self.n_prompt)

    def _ttft_s(self) -> float | None:
        return None if self.first_at is None or self.travelled else self.first_at - self.arrived_at

    def _summary_so_far(self, now: float) -> Summary:
        started = now if self.started_at is None else self.started_at
        first = now if self.first_at is None else self.first_at
        return Summary(
            finish_reason="cancelled",
            n_prompt=self.n_prompt,
            n_cached=0,
            n_generated=len(self.tokens),
            seed=self.submit.sampling.seed,
            queue_s=started - self.arrived_at,
            prefill_s=first - started if self.started_at is not None else 0.0,
            ttft_s=self._ttft_s(),
            decode_s=self.last_at - first if self.first_at is not None else 0.0,
            total_s=now - self.arrived_at,
        )

    def __repr__(self) -> str:
        tokens = f"{len(self.tokens)} tokens, {len(self.readers)} readers"
        return f"<Stream {self.id[:8]} {self.phase} {self.outcome}| {tokens}>"
