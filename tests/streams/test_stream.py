from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable

import pytest

from service.dialects import sse
from service.dialects.events import Phase
from service.dialects.native import Native
from service.errors import EngineCrash, NotReady
from service.protocol.frames import Submit
from service.protocol.sampling import Sampling
from service.streams.admission import Admission
from service.streams.phases import TABLE
from service.streams.stream import Stream
from tests.events import Event, numbers, parse, text
from tests.fakes import finish, said

ID = "0123456789abcdef" * 2


def stream(*, place: int = 0) -> Stream:
    admission = Admission(n_seq=1, max_waiting=8, closed=lambda: NotReady("not yet"))
    admission.open(n_seq=1)
    for _ in range(place):
        admission.admit()
    return Stream(
        submit=Submit(id=ID, sampling=Sampling(seed=7), text="hi"),
        dialect=Native(),
        ticket=admission.admit(),
        route="/stream",
        arrived_at=100.0,
        retry=sse.retry(2000),
    )


def events(of: Stream) -> list[Event]:
    return parse(b"".join(of.log))


def names(of: Stream) -> list[str]:
    return [event.json().get("phase", event.name) if event.name == "status" else event.name for event in events(of)]


ACTIONS: dict[str, Callable[[Stream], object]] = {
    "accept": lambda s: s.accept(3, 1.0),
    "queued": lambda s: s.queued(2, 1.0),
    "prefill": lambda s: s.prefill(3, 3, 101.0),
    "delta": lambda s: s.delta([1], "x", 102.0),
    "finish": lambda s: s.finish(finish(ID), 103.0),
    "cancel": lambda s: s.cancel("cancelled", 103.0),
    "fail": lambda s: s.fail(EngineCrash("gone"), 103.0),
}

INTO: dict[Phase, tuple[str, ...]] = {
    Phase.SUBMITTED: (),
    Phase.QUEUED: ("accept", "queued"),
    Phase.THINKING: ("accept", "prefill"),
    Phase.ANSWERING: ("accept", "prefill", "delta"),
    Phase.CLOSED: ("accept", "prefill", "delta", "finish"),
}

# (phase, action) -> (phase after it, what it adds to the log)
S, Q, T, A, C = Phase
EXPECTED: dict[tuple[Phase, str], tuple[Phase, list[str]]] = {
    (S, "accept"): (T, ["thinking"]),
    (S, "queued"): (Q, ["queued"]),
    (S, "prefill"): (T, ["thinking"]),
    (S, "delta"): (S, []),
    (S, "finish"): (C, ["done"]),
    (S, "cancel"): (C, ["done"]),
    (S, "fail"): (C, []),  # not an event: the handler answers with the error's status
    (Q, "accept"): (Q, []),
    (Q, "queued"): (Q, ["queued"]),
    (Q, "prefill"): (T, ["thinking"]),
    (Q, "delta"): (A, ["answering", "message"]),
    (Q, "finish"): (C, ["done"]),
    (Q, "cancel"): (C, ["done"]),
    (Q, "fail"): (C, ["failure"]),
    (T, "accept"): (T, []),
    (T, "queued"): (Q, ["queued"]),
    (T, "prefill"): (T, ["thinking"]),
    (T, "delta"): (A, ["answering", "message"]),
    (T, "finish"): (C, ["done"]),
    (T, "cancel"): (C, ["done"]),
    (T, "fail"): (C, ["failure"]),
    (A, "accept"): (A, []),
    (A, "queued"): (A, []),  # preempted: for its readers it only pauses
    (A, "prefill"): (A, []),
    (A, "delta"): (A, ["message"]),
    (A, "finish"): (C, ["done"]),
    (A, "cancel"): (C, ["done"]),
    (A, "fail"): (C, ["failure"]),
    **{(C, action): (C, []) for action in ACTIONS},
}


@pytest.mark.parametrize(("phase", "action"), list(itertools.product(Phase, ACTIONS)))
def test_every_phase_meets_every_event(phase: Phase, action: str) -> None:
    """Each action in each phase leads where the table says and logs exactly what its readers must see."""
    one = stream()
    for step in INTO[phase]:
        ACTIONS[step](one)
    assert phase is one.phase
    before = len(one.log)
    ACTIONS[action](one)
    assert EXPECTED[phase, action] == (one.phase, names(one)[before:])


def test_the_table_knows_every_phase_and_leaves_none_but_closed_without_an_end() -> None:
    """Whatever happens, a stream can end; after its end nothing happens."""
    assert set(Phase) == set(TABLE)
    assert all("close" in moves for phase, moves in TABLE.items() if phase is not Phase.CLOSED)
    assert TABLE[Phase.CLOSED] == {}


def test_ids_count_the_events_from_zero() -> None:
    """Every event has the id <stream>.<n>.<checksum>, without a gap; the first one carries retry in its own block."""
    one = stream()
    one.accept(3, 0.0)
    one.prefill(3, 3, 101.0)
    for word in ("a", "b", "c"):
        one.delta([1], word, 102.0)
    one.finish(finish(ID), 103.0)
    assert numbers(events(one), ID) == list(range(len(one.log)))
    assert [event.retry for event in events(one) if event.retry is not None] == [2000]
    assert one.log[0].startswith(b"retry: 2000\nid: ") and b"\ndata: " in one.log[0]


def test_a_waiting_stream_reports_it_at_once() -> None:
    """The first event of a stream without a free place has its position and the expected wait."""
    one = stream(place=2)
    one.accept(3, 7.04)
    assert events(one)[0].json() == {"phase": "queued", "position": 2, "eta_s": 7.0}


def test_progress_is_a_share_of_the_prompt() -> None:
    """Thinking has how many of the prompt's tokens are prefilled, as counts and as a share."""
    one = stream()
    one.accept(8, 0.0)
    one.prefill(2, 8, 101.0)
    expected = {"phase": "thinking", "position": 0, "progress": 0.25, "n_done": 2, "n_prompt": 8}
    assert expected == events(one)[1].json()


def test_answering_is_announced_once() -> None:
    """One status announces the first delta, none the later ones."""
    one = stream()
    one.accept(3, 0.0)
    for word in ("a", "b"):
        one.delta([1], word, 102.0)
    assert names(one) == ["thinking", "answering", "message", "message"]


def test_tokens_without_text_count_for_the_next_event() -> None:
    """Tokens with incomplete bytes make no event, but a continuation needs them and pace counts them."""
    one = stream()
    one.accept(3, 0.0)
    one.delta([1], "", 101.0)
    one.delta([2, 3], "é", 102.0)
    assert one.tokens == [1, 2, 3]
    assert one.log.weights == [0, 0, 3]
    assert text(events(one)) == "é"


def test_gaps_are_between_deltas_with_text() -> None:
    """Inter-token latency is the gap between two deltas: not the wait for the first, not a token held back, and none
    where one step made both."""
    gaps: list[float] = []
    one = stream()
    one._gap = gaps.append
    one.accept(3, 0.0)
    one.delta([1], "a", 101.0)
    one.delta([1], "", 101.5)
    one.delta([1], "b", 103.0)
    one.delta([1], "c", 103.0)
    assert gaps == [2.0]


def test_events_that_no_reader_had_are_taken_back() -> None:
    """The events, their tokens, those of them without text yet, and the dialect's state."""
    one = stream()
    one.log.is_durable = True
    one.accept(3, 0.0)
    one.delta([1], "a", 101.0)
    one.log.acknowledge(len(one.log))
    had, n_bytes = list(one.log), one.log.n_bytes
    one.delta([2], "b", 102.0)
    one.delta([3], "", 103.0)
    dialect = Native()
    one.take_back(dialect)
    assert (one.log, one.tokens, one.log.weights, one.log.n_bytes) == (had, [1], [0] * (len(had) - 1) + [1], n_bytes)
    assert one.dialect is dialect
    one.delta([4], "c", 104.0)
    assert sse.checksum(one.log[-1]) == zlib.crc32(b"ac")


def test_log_probabilities_come_with_their_text() -> None:
    """In one event, whose id has the checksum of the text alone; those of tokens without text come at the end."""
    one, plain = stream(), stream()
    for each in (one, plain):
        each.accept(3, 0.0)
    plain.delta([1], "a", 101.0)
    one.delta([1], said("a", 2), 101.0)
    assert sse.head(one.log[-1]) == sse.head(plain.log[-1])
    assert [len(entry["top_logprobs"]) for entry in events(one)[-1].json()["logprobs"]] == [2]
    one.delta([2], said("", 0), 102.0, is_last=True)
    one.finish(finish(ID), 102.0)
    last, done = events(one)[-2:]
    assert (last.json()["text"], len(last.json()["logprobs"]), done.name) == ("", 1, "done")
    assert one.log.weights[-2:] == [1, 0]


def test_the_end_is_reported_once_and_frees_the_ticket() -> None:
    """The first end counts, and is reported once; a second one finds a closed stream."""
    one = stream()
    one.accept(3, 0.0)
    assert one.finish(finish(ID, "length"), 103.0)
    assert not one.cancel("cancelled", 104.0)
    assert not one.fail(EngineCrash("gone"), 105.0)
    assert one.outcome == "length"
    assert repr(one.ticket) == "<Ticket released>"


def test_done_has_usage_timings_and_seed() -> None:
    """The last event has the usage and the durations, from the engine's report and our own clock."""
    one = stream()
    one.accept(3, 0.0)
    one.prefill(3, 3, 100.5)
    one.delta([1], "a", 101.0)
    one.finish(finish(ID, "length", n_prompt=3, n_generated=6), 102.5)
    assert events(one)[-1].json() == {
        "finish_reason": "length",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 6,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
        "timings": {
            "queue_s": 0.25,
            "prefill_s": 0.5,
            "ttft_s": 1.0,
            "decode_s": 1.0,
            "total_s": 2.5,
            "tokens_per_s": 5.0,
        },
        "seed": 7,
    }


def test_a_cancelled_stream_ends_with_what_was_delivered() -> None:
    """`done` has the reason cancelled and the count of delivered tokens; times come from our own clock."""
    one = stream()
    one.accept(3, 0.0)
    one.prefill(3, 3, 100.5)
    one.delta([1], "a", 101.0)
    one.delta([2], "b", 102.0)
    one.cancel("client_left", 103.0)
    done = events(one)[-1].json()
    assert (
        done["finish_reason"],
        done["usage"]["completion_tokens"],
        done["timings"]["tokens_per_s"],
    ) == ("cancelled", 2, 1.0)
    assert one.outcome == "client_left"


def test_a_failure_has_openais_error_body() -> None:
    """The event's data equals the same error's body as a response."""
    one = stream()
    one.accept(3, 0.0)
    one.fail(EngineCrash("gone"), 103.0)
    assert events(one)[-1].json() == {
        "error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_crash"}
    }


def test_text_is_one_line_whatever_it_holds() -> None:
    """Line ends, quotes, NUL and separators in a text never break an event."""
    one = stream()
    one.accept(3, 0.0)
    nasty = 'a\nb\r\nc\r\u2028\u0000"\\ : id: 5 \n\ndata: x'
    one.delta([1], nasty, 101.0)
    assert nasty == text(events(one))
