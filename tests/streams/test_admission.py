from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import NotReady, QueueFull
from service.streams.admission import FIRST_GUESS_S, MAX_RETRY_AFTER_S, Admission, Ticket


def closed() -> NotReady:
    return NotReady("not yet")


def admission(n_seq: int = 2, max_waiting: int = 1, *, has_tenants: bool = False) -> Admission:
    opened = Admission(n_seq=n_seq, max_waiting=max_waiting, closed=closed, has_tenants=has_tenants)
    opened.open(n_seq=n_seq)
    return opened


def test_refuses_before_opening_and_after_shutting() -> None:
    """The error that `closed` makes is raised as long as no engine accepts work."""
    gate = Admission(n_seq=1, max_waiting=0, closed=closed)
    with pytest.raises(NotReady):
        gate.admit()
    gate.open(n_seq=1)
    gate.admit().release(0.0)
    gate.shut(closed)
    with pytest.raises(NotReady):
        gate.admit()


def test_the_place_tells_running_from_waiting() -> None:
    """The first n_seq tickets have place 0, the next ones count up from 1."""
    gate = admission(n_seq=2, max_waiting=2)
    assert [gate.admit().place for _ in range(4)] == [0, 0, 1, 2]


def test_an_excess_request_is_refused_with_retry_after() -> None:
    """Beyond n_seq + max_waiting tickets there is QueueFull, whose retry_after_s is the wait at that place."""
    gate = admission(n_seq=2, max_waiting=1)
    tickets = [gate.admit() for _ in range(3)]
    tickets[0].start(0.0)
    tickets[1].start(0.0)
    with pytest.raises(QueueFull) as refused:
        gate.admit()
    assert refused.value.retry_after_s == 2 * FIRST_GUESS_S / 2
    tickets[0].release(1.0)
    assert gate.admit().place == 1


def test_release_is_idempotent() -> None:
    """However often a ticket is released, one place becomes free."""
    gate = admission()
    ticket = gate.admit()
    ticket.start(0.0)
    for _ in range(3):
        ticket.release(1.0)
    ticket.start(2.0)
    assert (gate.n_tickets, gate.n_running) == (0, 0)


def test_the_wait_follows_recent_durations() -> None:
    """The first measured duration replaces the guess; later ones have a weight of a quarter each."""
    gate = admission(n_seq=2)
    for duration_s in (2.0, 6.0):
        ticket = gate.admit()
        ticket.start(10.0)
        ticket.release(10.0 + duration_s)
    assert gate.wait_s(1) == (2.0 + 0.25 * (6.0 - 2.0)) / 2


def test_a_ticket_that_never_ran_is_not_measured() -> None:
    """Only running tickets change the expected duration."""
    gate = admission()
    gate.admit().release(1e6)
    assert gate.wait_s(1) == FIRST_GUESS_S / 2


def test_retry_after_is_bounded() -> None:
    """openai-python ignores a Retry-After of more than a minute."""
    gate = admission(n_seq=1, max_waiting=0)
    ticket = gate.admit()
    ticket.start(0.0)
    ticket.release(1e5)
    gate.admit()
    with pytest.raises(QueueFull) as refused:
        gate.admit()
    assert refused.value.retry_after_s == MAX_RETRY_AFTER_S


def test_no_key_can_take_all_places() -> None:
    """However many places one key asks for, another without any is admitted; each is refused at its own share."""
    gate = admission(n_seq=4, max_waiting=8, has_tenants=True)
    assert n_admitted(gate, "alice", 100) == 9  # 9 <= 4 * 3
    assert n_admitted(gate, "bob", 100) == 2  # 2 <= 4 * 1
    assert n_admitted(gate, "carol", 100) == 1
    with pytest.raises(QueueFull):
        gate.admit("dave")


def test_places_converge_to_equal_shares() -> None:
    """Two keys that ask for all places, one of which came first, hold equally many after a while."""
    gate = admission(n_seq=4, max_waiting=36, has_tenants=True)
    held: dict[str, list[Ticket]] = {"alice": [gate.admit("alice") for _ in range(32)], "bob": []}
    for _ in range(100):
        for tickets in held.values():
            if tickets:
                tickets.pop(0).release(0.0)
        for tenant, tickets in held.items():
            while ticket := admitted(gate, tenant):
                tickets.append(ticket)
    assert abs(len(held["alice"]) - len(held["bob"])) <= 4


def test_a_lone_key_may_take_all_places() -> None:
    """Without other keys no places are reserved."""
    assert n_admitted(admission(n_seq=2, max_waiting=3), "", 100) == 5


def test_a_stream_admitted_elsewhere_is_always_admitted() -> None:
    """A stream that another replica admitted is admitted whatever its key holds here, and even if the queue is full."""
    gate = admission(n_seq=1, max_waiting=2, has_tenants=True)
    assert n_admitted(gate, "alice", 100) == 2
    assert [gate.admit("alice", is_owed=True).place for _ in range(2)] == [2, 3]
    with pytest.raises(QueueFull):
        gate.admit("bob")


def test_a_place_given_back_counts_for_its_key() -> None:
    """A key's share counts what it holds now."""
    gate = admission(n_seq=1, max_waiting=1, has_tenants=True)
    gate.admit("alice").release(0.0)
    assert n_admitted(gate, "alice", 100) == 1


def admitted(gate: Admission, tenant: str) -> Ticket | None:
    try:
        return gate.admit(tenant)
    except QueueFull as refused:
        assert refused.retry_after_s
        return None


def n_admitted(gate: Admission, tenant: str, n_asked: int) -> int:
    return sum(admitted(gate, tenant) is not None for _ in range(n_asked))


def test_repr_shows_the_state() -> None:
    """It has the running tickets, the waiting ones and the limits."""
    gate = admission(n_seq=4, max_waiting=16)
    gate.admit().start(0.0)
    gate.admit()
    assert repr(gate) == "<Admission 1 running, 1 waiting | limits 4, 16>"


class Arrivals(RuleBasedStateMachine):
    """Any order of admissions, starts and releases keeps the counts correct."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = admission(n_seq=3, max_waiting=2)
        self.tickets: list[Ticket] = []
        self.started: set[int] = set()
        self.now = 0.0

    @rule()
    def admit(self) -> None:
        if len(self.tickets) < 5:
            self.tickets.append(self.gate.admit())
        else:
            with pytest.raises(QueueFull) as refused:
                self.gate.admit()
            assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 0

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        ticket.start(self.now)
        self.started.add(id(ticket))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), again=st.booleans())
    def release(self, data: st.DataObject, again: bool) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.now += 1.0
        ticket.release(self.now)
        if again:
            ticket.release(self.now)
        self.tickets.remove(ticket)
        self.started.discard(id(ticket))

    @invariant()
    def counts_are_true(self) -> None:
        assert len(self.tickets) == self.gate.n_tickets
        assert len(self.started) == self.gate.n_running
        assert self.gate.n_waiting >= 0


TestArrivals = Arrivals.TestCase
