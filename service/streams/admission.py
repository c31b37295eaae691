"""Which requests may run, which wait, which are refused and for how long. Pure: no I/O, times are arguments.

A ticket is the permission to run. New requests get n_seq + max_waiting of them at most; the engine runs n_seq at once,
first come, first served, so a ticket's queue position is known without asking it. Where there are several tenants none
can hold all tickets: they are shared as buffers are in a switch, by what is left (Choudhury and Hahne, "Dynamic queue
length thresholds in a shared memory packet switch", 1996).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from service.errors import QueueFull, Refused

# Until a stream has run we know nothing of this model's speed; a wrong guess is corrected by the first stream.
FIRST_GUESS_S = 5.0
# openai-python ignores a Retry-After beyond a minute.
MAX_RETRY_AFTER_S = 60.0
# A new duration weighs a quarter: about the last ten streams count, so a change of load shows within one queue.
WEIGHT = 0.25
# Tickets that a tenant may hold for each that is left: four fifths of all when it is alone, 4 of 4 n + 1 each with n
# greedy tenants. One that has none gets any that is left.
SHARE = 4


class Ticket:
    """Permission to run; released exactly once, however often release is called."""

    __slots__ = ("_admission", "_released", "_started_at", "place", "tenant")

    def __init__(self, admission: Admission, place: int, tenant: str = "") -> None:
        self._admission = admission
        self.tenant = tenant
        self._started_at: float | None = None
        self._released = False
        self.place = place  # 0: runs at once; n: n-th in the queue when it was admitted

    def start(self, now: float) -> None:
        """The engine has started it."""
        if self._started_at is None and not self._released:
            self._started_at = now
            self._admission._started()

    def release(self, now: float) -> None:
        """Give the place back. Idempotent."""
        if not self._released:
            self._released = True
            self._admission._release(self, self._started_at, now)

    def __repr__(self) -> str:
        state = "released" if self._released else "waiting" if self._started_at is None else "running"
        return f"<Ticket {state}>"


class Admission:
    """Counts tickets. Refuses everything until `open`, and again after `shut`."""

    def __init__(
        self, *, n_seq: int, max_waiting: int, closed: Callable[[], Refused], has_tenants: bool = False
    ) -> None:
        """has_tenants: whether there may be several, which share the tickets."""
        self.n_seq = n_seq
        self.max_waiting = max_waiting
        self._has_tenants = has_tenants
        self._held: Counter[str] = Counter()  # tickets by tenant
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

    def admit(self, tenant: str = "", *, is_owed: bool = False) -> Ticket:
        """A ticket. Raises QueueFull with the time after which a place should be free, or what `shut` was given.

        is_owed: admitted before, at another replica: neither max_waiting nor the tenant's share limits it.
        """
        if self._closed is not None:
            raise self._closed()
        place = max(0, self.n_tickets + 1 - self.n_seq)
        wait_s = min(self.wait_s(max(1, place)), MAX_RETRY_AFTER_S)
        if place > self.max_waiting and not is_owed:
            message = f"The queue is full ({self.n_running} running, {self.n_waiting} waiting); try again later."
            raise QueueFull(message, retry_after_s=wait_s)
        if not is_owed and self._is_greedy(tenant):
            message = (
                f"Your {self._held[tenant]} requests with this API key fill its share of the queue; try again later."
            )
            raise QueueFull(message, retry_after_s=wait_s)
        self.n_tickets += 1
        self._held[tenant] += 1
        return Ticket(self, place, tenant)

    def admit_all(self, tenant: str, n: int) -> list[Ticket]:
        """n tickets, or none. Raises as `admit` does."""
        tickets: list[Ticket] = []
        try:
            while len(tickets) < n:
                tickets.append(self.admit(tenant))
        except Refused:
            for ticket in tickets:
                ticket.release(0.0)
            raise
        return tickets

    def spectator(self) -> Ticket:
        """A ticket that was released already: for a stream that does not run here."""
        ticket = Ticket(self, 0)
        ticket._released = True
        return ticket

    def wait_s(self, place: int) -> float:
        """The expected wait of the place-th in the queue: n_seq streams of the recent mean duration run at once."""
        return place * self._mean_s / self.n_seq

    def _is_greedy(self, tenant: str) -> bool:
        """Whether another ticket would be more than this tenant's share of those that are left."""
        n = self._held[tenant] + 1
        n_left = self.n_seq + self.max_waiting - self.n_tickets - 1
        return self._has_tenants and n > 1 and n > SHARE * n_left

    def _started(self) -> None:
        self.n_running += 1

    def _release(self, ticket: Ticket, started_at: float | None, now: float) -> None:
        self.n_tickets -= 1
        self._held[ticket.tenant] -= 1
        self._held += Counter()  # drops those that hold none: tenants come and go
        if started_at is None:
            return
        self.n_running -= 1
        duration_s = max(0.0, now - started_at)
        self._mean_s += (WEIGHT if self._measured else 1.0) * (duration_s - self._mean_s)
        self._measured = True

    def __repr__(self) -> str:
        limits = f"limits {self.n_seq}, {self.max_waiting}"
        return f"<Admission {self.n_running} running, {self.n_waiting} waiting | {limits}>"
