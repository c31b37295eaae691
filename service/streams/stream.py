"""One stream: a generation and its event log. Phases change as in phases.TABLE, in `_move` alone; it closes once.

What a continuation needs (the Submit, the delivered token ids) is kept with its log (log.py).
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from service.dialects.events import Dialect, Phase, Status, Summary
from service.errors import RillError
from service.protocol.frames import Finish, Submit
from service.protocol.said import Said
from service.streams.admission import Ticket
from service.streams.log import EventLog
from service.streams.phases import INTO, TABLE, Event
from service.streams.timings import Timings


class Stream:
    """A generation's event log. `gap` gets the time between two deltas, in seconds.

    finish, cancel and fail end it, once: True for the one call that did. Times are the caller's, monotonic, in seconds.
    """

    __slots__ = (
        "_gap", "_last_words", "_n_held", "_retry", "accepted", "closed_at", "dialect", "error", "exact", "grace_s",
        "id", "log", "migrated", "n_before_end", "n_lives", "n_prompt", "outcome", "phase", "route", "submit",
        "summary", "tenant", "ticket", "times", "tokens",
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
        gap: Callable[[float], None] = lambda gap_s: None,
    ) -> None:
        self.id = submit.id
        self.submit = submit
        self.route = route
        self.tenant = tenant
        self.grace_s = grace_s  # how long it runs on when its last reader has left
        self.ticket = ticket
        self.phase = Phase.SUBMITTED
        self.log = EventLog(submit.id)
        self.times = Timings(arrived_at)
        self.tokens: list[int] = []  # every token id delivered so far
        self.migrated = False  # more than one replica has it: a reader may have events that are not here (yet)
        self.n_before_end: int | None = None  # events before those that end it
        self.error: RillError | None = None
        self.summary: Summary | None = None
        self.outcome = ""
        self.n_prompt = 0
        self.accepted = False  # the engine accepted its prompt; a client may have its id
        self.closed_at: float | None = None
        self.dialect = dialect
        self._retry, self._gap = retry, gap
        self._n_held = 0  # tokens without their text so far
        self._last_words: tuple[str | Said, int] | None = None  # text that came with its end, and its tokens
        self.n_lives = 0  # engines it was sent to
        self.exact: bool | None = None  # whether they all promise that the same request gives the same text

    @property
    def open(self) -> bool:
        return self.phase is not Phase.CLOSED

    def submission(self, exact: bool) -> Submit:
        """What to send to an engine that does not have it: the request, and the tokens delivered so far.

        exact: what that engine promises. It stays unknown if another replica began it.
        """
        self.exact = exact if not self.n_lives else self.exact and exact
        self.n_lives += 1
        self._n_held, self._last_words = 0, None
        return replace(self.submit, delivered=list(self.tokens)) if self.tokens else self.submit

    def accept(self, n_prompt: int, eta_s: float) -> None:
        """The engine accepted the prompt: the first event says whether it is queued or thinking."""
        if self.phase is not Phase.SUBMITTED:
            return
        self.n_prompt = n_prompt
        if self.ticket.place:
            self._move("wait")
            status = Status(Phase.QUEUED, self.ticket.place, round(eta_s, 1))
        else:
            self._move("think")
            status = self._thinking(0)
        self.log.say(self.dialect.opening(status), retry=self._retry)

    def queued(self, position: int, eta_s: float) -> None:
        """It waits at this position now; the next to run has 1."""
        if self._move("wait"):
            self.log.say(self.dialect.status(Status(Phase.QUEUED, position, round(eta_s, 1))))

    def prefill(self, n_done: int, n_prompt: int, now: float) -> None:
        """The engine has read n_done of n_prompt tokens."""
        if self._move("think"):
            self._start(now)
            self.n_prompt = n_prompt
            self.log.say(self.dialect.status(self._thinking(n_done)))

    def delta(self, tokens: list[int], said: str | Said, now: float, *, is_last: bool = False) -> None:
        """These tokens came, and made this text deliverable (which may be none yet).

        is_last: the finish that follows made some of it deliverable, so the text is part of the end: a continuation
        after these tokens without the end would repeat it.
        """
        if self.phase is not Phase.ANSWERING:
            if not self._move("answer"):
                return
            self._start(now)
            self.log.say(self.dialect.status(Status(Phase.ANSWERING)))
        self.tokens += tokens
        self._n_held += len(tokens)
        if said:
            if (gap_s := self.times.delta(now)) > 0:
                self._gap(gap_s)
            weight, self._n_held = self._n_held, 0
            if is_last:
                self._last_words = said, weight
            else:
                self.log.say_text(self.dialect, said, weight)

    def finish(self, finish: Finish, now: float) -> bool:
        """The engine has finished it."""
        summary = replace(
            self._summary_so_far(now),
            finish_reason=finish.reason,
            n_prompt=finish.n_prompt,
            n_cached=finish.n_cached,
            n_generated=finish.n_generated,
        )
        if self.n_lives <= 1:  # the engine's times are closer to the work, but cover its own run only
            summary = replace(summary, queue_s=finish.queue_s, prefill_s=finish.prefill_s, decode_s=finish.decode_s)
        return self._close(finish.reason, summary, None, now)

    def cancel(self, outcome: str, now: float) -> bool:
        """End it as cancelled, here and now: the engine frees the sequence by itself within a step."""
        return self._close(outcome, self._summary_so_far(now), None, now)

    def fail(self, error: RillError, now: float) -> bool:
        """End it with the one failure event; before it was accepted, its readers respond with `error`."""
        return self._close(error.outcome, self._summary_so_far(now), error, now)

    def _close(self, outcome: str, summary: Summary, error: RillError | None, now: float) -> bool:
        if not self._end(outcome, summary, error, now):
            return False
        if self._last_words is not None:
            self.log.say_text(self.dialect, *self._last_words)
        if error is not None:
            if self.accepted:
                self.log.say(self.dialect.failure(error))
        else:
            for body in self.dialect.done(summary):
                self.log.say(body)
        self.ticket.release(now)
        self.log.close()
        return True

    def _end(self, outcome: str, summary: Summary, error: RillError | None, now: float) -> bool:
        """Its one end; its last events are logged next. False: it had one."""
        if not self._move("close"):
            return False
        self.outcome, self.summary, self.error, self.closed_at = outcome, summary, error, now
        self.n_before_end = len(self.log)
        self.submit = self.submit.without_prompt()  # which is not needed now
        return True

    def _move(self, event: Event) -> bool:
        phase = TABLE[self.phase].get(event)
        if phase is None:
            return False
        self.accepted |= phase is not Phase.CLOSED
        self.phase = phase
        return True

    # From the store.

    def copy(self, event: bytes, tokens: list[int], phase: Phase) -> None:
        """Another replica logged this event."""
        self._move(INTO[phase])
        self.tokens += tokens
        self.log.add(event, len(tokens))
        self.log.show()

    def copy_end(
        self, events: list[bytes], outcome: str, summary: Summary, error: RillError | None, now: float
    ) -> None:
        """Another replica logged its end: its last events, and its summary."""
        if self._end(outcome, summary, error, now):
            self.n_prompt = summary.n_prompt
            for event in events:
                self.log.add(event, 0)
            self.accepted = True
            self.log.show()

    def take_over(self, ticket: Ticket, now: float) -> None:
        """From now on it is generated here, after what is logged."""
        self.ticket = ticket
        self.submit = replace(self.submit, is_owed=True)
        self.n_lives = max(1, self.n_lives)
        self._rewind()
        if self.times.take_over(now, has_answer=bool(self.tokens)):
            ticket.start(now)

    def take_back(self, dialect: Dialect) -> None:
        """Discard the events that no reader has had: another replica generates what comes there.

        dialect: a new instance of the stream's own.
        """
        del self.tokens[self.log.take_back() :]
        self._rewind()
        self.dialect = dialect

    def _rewind(self) -> None:
        """Generation continues after the last event of the log."""
        self._n_held = 0
        self.log.rewind()

    def give_up(self, now: float) -> None:
        """From now on another replica generates it."""
        self.log.write_to(None)
        self.migrated = True
        self.ticket.release(now)

    def _thinking(self, n_done: int) -> Status:
        progress = round(n_done / self.n_prompt, 3) if self.n_prompt else 0.0
        return Status(Phase.THINKING, progress=progress, n_done=n_done, n_prompt=self.n_prompt)

    def _start(self, now: float) -> None:
        if self.times.started_at is None:
            self.times.started_at = now
            self.ticket.start(now)

    def _summary_so_far(self, now: float) -> Summary:
        seed, n = self.submit.sampling.seed, len(self.tokens)
        return self.times.summary(now, n_prompt=self.n_prompt, n_generated=n, seed=seed, migrated=self.migrated)

    def __repr__(self) -> str:
        return f"<Stream {self.id[:8]} {self.phase} {self.outcome}| {len(self.tokens)} tokens, {self.log!r}>"
