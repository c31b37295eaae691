from __future__ import annotations

import tracemalloc
from typing import get_args

import pytest

from service.dialects.events import Dialect
from service.dialects.native import Native
from service.dialects.openai import Answer, Chunks, Whole
from service.errors import NotReady
from service.protocol.frames import Submit
from service.protocol.sampling import Sampling
from service.streams.admission import Admission
from service.streams.stream import Stream
from service.streams.table import TABLE, Move, Role, StreamTable, kept_bytes
from tests.fakes import finish, said


def ended(id: str, at: float) -> Stream:
    """A stream that closed at that time, with a few events."""
    admission = Admission(n_seq=1, max_waiting=0, closed=lambda: NotReady("no"))
    admission.open(n_seq=1)
    submit = Submit(id=id, text="hi", sampling=Sampling(seed=0))
    stream = Stream(submit=submit, dialect=Native(), ticket=admission.admit(), route="/stream", arrived_at=at)
    stream.accept(3, 0.0)
    stream.delta([1], "x", at)
    stream.finish(finish(id), at)
    return stream


def table(*, ttl_s: float = 1000.0, max_ended: int = 100, max_ended_bytes: int = 1 << 30) -> StreamTable:
    return StreamTable(ttl_s=ttl_s, max_ended=max_ended, max_ended_bytes=max_ended_bytes)


WAYS: dict[Role | None, tuple[Move, ...]] = {  # how a stream enters each role
    None: (),
    Role.MADE: ("open",),
    Role.FOLLOWED: ("follow",),
    Role.ENDED: ("open", "end"),
    Role.GONE: ("open", "end", "expire"),
}


@pytest.mark.parametrize("role", TABLE)
@pytest.mark.parametrize("move", get_args(Move))
def test_a_stream_moves_as_the_table_says(role: Role | None, move: Move) -> None:
    """From every role, by every move; a move that is not in it raises, and changes nothing."""
    streams, stream = table(), ended("a", at=0)
    for way in WAYS[role]:
        streams.move(stream, way)
    assert streams.role("a") is role
    if move in TABLE[role]:
        streams.move(stream, move)
        assert streams.role("a") is TABLE[role][move]
    else:
        with pytest.raises(KeyError):
            streams.move(stream, move)
        assert streams.role("a") is role
    assert (streams.find("a") is stream) == (streams.role("a") not in (None, Role.GONE))


def test_an_ended_stream_is_kept_for_its_time() -> None:
    """Until ttl_s after its end; then it is gone, which is remembered."""
    streams = table(ttl_s=10)
    streams.move(ended("a", at=5), "end")
    assert streams.expire(14.9) == [] and streams.role("a") is Role.ENDED
    assert streams.expire(15) == ["a"] and streams.role("a") is Role.GONE and streams.find("a") is None


@pytest.mark.parametrize("bound", ["max_ended", "max_ended_bytes"])
def test_ended_streams_are_bounded(bound: str) -> None:
    """In number and in bytes; the oldest goes first."""
    ends = [ended(str(i), at=i) for i in range(10)]
    streams = table(**{bound: 3 if bound == "max_ended" else 3 * kept_bytes(ends[0])})
    for stream in ends:
        streams.move(stream, "end")
    assert [s.id for s in ends[:7]] == streams.expire(10)
    assert streams.count(Role.ENDED) == 3


def test_gone_streams_are_not_remembered_for_ever() -> None:
    """Only the last max_ended of them are remembered."""
    streams = table(ttl_s=0, max_ended=3)
    for i in range(10):
        streams.move(ended(str(i), at=i), "end")
        streams.expire(i)
    assert [str(i) for i in range(10) if streams.role(str(i)) is Role.GONE] == ["7", "8", "9"]


def test_a_repeated_end_counts_once() -> None:
    """Other replicas may report a stream's end again."""
    streams, stream = table(ttl_s=10), ended("a", at=0)
    streams.move(stream, "end")
    streams.move(stream, "end")
    assert streams.count(Role.ENDED) == 1 and streams.expire(10) == ["a"]


def test_a_dropped_stream_leaves_no_trace() -> None:
    """Nor in the count of bytes: a stream dropped as wrong may be read again from another replica."""
    streams, stream = table(), ended("a", at=5)
    streams.move(stream, "end")
    streams.move(stream, "drop")
    streams.move(stream, "drop")
    assert (streams.find("a"), streams.role("a"), streams._n_ended_bytes) == (None, None, 0)


def test_a_live_stream_without_a_reader_is_returned() -> None:
    """At its deadline, once; not if it has a reader by then or another role, or has ended."""
    streams = table()
    for id in ("left", "read", "over"):
        streams.move(ended(id, at=0), "open")
        streams.wait_for_reader(id, until=10.0)
    streams.attend("read")
    streams.move(ended("over", at=0), "end")
    assert streams.unattended() == ["left"]
    assert streams.give_up(9.9) == []
    assert [stream.id for stream in streams.give_up(10.0)] == ["left"]
    assert streams.give_up(11.0) == []


@pytest.mark.parametrize("kind", ["native", "chunks", "whole"])
@pytest.mark.parametrize("n_logprobs", [None, 3])
@pytest.mark.parametrize("n_tokens", [1, 300])
def test_all_memory_of_ended_streams_is_counted(kind: str, n_tokens: int, n_logprobs: int | None) -> None:
    """Events, tokens and non-streamed answers are counted to within a third of the memory they use, log-probabilities
    included. A prompt is not kept."""

    def dialect() -> Dialect:
        answer = Answer("chat", "a model", "fingerprint")
        whole, chunks = Whole(answer), Chunks(answer, include_usage=True)
        return whole if kind == "whole" else chunks if kind == "chunks" else Native()

    def kept(streams: StreamTable, id: str) -> None:
        admission = Admission(n_seq=1, max_waiting=0, closed=lambda: NotReady("no"))
        admission.open(n_seq=1)
        submit = Submit(id=id, text=f"{id} " * 10_000, sampling=Sampling(seed=0, grammar=f"# {id}\n" * 1000))
        ticket = admission.admit()
        stream = Stream(submit=submit, dialect=dialect(), ticket=ticket, route="/stream", arrived_at=0.0)
        stream.accept(3, 0.0)
        for i in range(n_tokens):
            stream.delta([1000 + i], said(f" word {i}", n_logprobs), 0.1 * i)
        stream.finish(finish(id), 100.0)
        streams.move(stream, "end")

    streams = table(max_ended=1000)
    kept(streams, "first")
    counted = streams._n_ended_bytes
    tracemalloc.start()
    try:
        for i in range(100):
            kept(streams, f"stream {i}")
        n_taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 / 3 <= (streams._n_ended_bytes - counted) / n_taken <= 3 / 2
