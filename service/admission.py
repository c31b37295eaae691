"""Who may run, who may wait, who is refused and for how long. Pure: no I/O, and every time is an argument.

A ticket is the permission to run. There are never more than n_seq + max_waiting of them; the engine runs n_seq at
once, first come, first served, so a ticket's place in the queue is known without asking it.
"""

from __future__ import annotations

from collections.abc import Callable

from service.errors import QueueFull, Refused

# Until a stream has run we know nothing of this model's speed; a wrong guess is corrected by the first stream.
FIRST_GUESS_S = 5.0
# openai-python ignores a Retry-After beyond a minute.
MAX_RETRY_AFTER_S = 60.0
# A new duration weighs a quarter: about the last ten streams count, so a change of load shows within one queue.
WEIGHT = 0.25


class Ticket:
    """Permission to run; released exactly once, however often release is called."""

    __slots__ = ("_admission", "_released", "_started_at", "place")

    def __init__(self, admission: Admission, place: int) -> None:
        self._admission = admission
        self._started_at: float | None = None
        self._released = False
        self.place = place  # 0: runs at once; n: n-th in the queue when it was admitted

    def start(self, now: float) -> None:
        """The engine has begun with it."""
        if self._started_at is None and not self._released:
            self._started_at = now
            self._admission._started()

    def release(self, now: float) -> None:
        """Give the place back. Idempotent."""
        if not self._released:
            self._released = True
            self._admission._release(self._started_at, now)

    def __repr__(self) -> str:
        state = "released" if self._released else "waiting" if self._started_at is None else "running"
        return f"<Ticket {state}>"


class Admission:
    """Counts tickets. Refuses everything until `open`, and again after `shut`."""

    def __init__(self, *, n_seq: int, max_waiting: int, closed: Callable[[], Refused]) -> None:
        self.n_seq = n_seq
        self.max_waiting = max_waiting
        self.n_tickets = 0
        self.n_running = 0
        self._closed: Callable[[], Refused] | None = closed
        self._mean_s = FIRST_GUESS_S
        self._measured = False

    @property
    def n_waiting(self) -> int:
        return self.n_tickets - self.n_running

    def open(self, *, n_seq: int) -> None:
        """Admit from now on, for an engine that runs n_seq at once."""
        self.n_seq = n_seq
        self._closed = None

    def shut(self, closed: Callable[[], Refused]) -> None:
        """Refuse from now on with the error that `closed` makes; tickets already out are kept."""
        self._closed = closed

    def admit(self) -> Ticket:
        """A ticket. Raises QueueFull with the time after which a place should be free, or what `shut` was given."""
        if self._closed is not None:
            raise self._closed()
        place = max(0, self.n_tickets + 1 - self.n_seq)
        if place > self.max_waiting:
            wait_s = min(self.wait_s(place), MAX_RETRY_AFTER_S)
            message = f"The queue is full ({self.n_running} running, {self.n_waiting} waiting); try again later."
            raise QueueFull(message, retry_after_s=wait_s)
        self.n_tickets += 1
        return Ticket(self, place)

    def spectator(self) -> Ticket:
        """A ticket that was released already: for a stream that does not run here."""
        ticket = Ticket(self, 0)
        ticket._released = True
        return ticket

    def wait_s(self, place: int) -> float:
        """The expected wait of the place-th in the queue: n_seq streams of the recent mean duration run at once."""
        return place * self._mean_s / self.n_seq

    def _started(self) -> None:
        self.n_running += 1

    def _release(self, started_at: float | None, now: float) -> None:
        self.n_tickets -= 1
        if started_at is None:
            return
        self.n_running -= 1
        duration_s = max(0.0, now - started_at)
        self._mean_s += (WEIGHT if self._measured else 1.0) * (duration_s - self._mean_s)
        self._measured = True

    def __repr__(self) -> str:
        limits = f"limits {self.n_seq}, {self.max_waiting}"
        return f"<Admission {self.n_running} running, {self.n_waiting} waiting | {limits}>"
