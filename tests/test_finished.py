from __future__ import annotations

import tracemalloc

import pytest

from service import sse
from service.admission import Admission
from service.engine.protocol import Sampling, Submit
from service.errors import NotReady
from service.events import Dialect
from service.finished import Finished
from service.openai import Answer, Chunks, Whole
from service.streams import Stream
from tests.fakes import finish


def ended(id: str, at: float) -> Stream:
    """A stream that closed then, with a few events."""
    admission = Admission(n_seq=1, max_waiting=0, closed=lambda: NotReady("no"))
    admission.open(n_seq=1)
    submit = Submit(id=id, text="hi", sampling=Sampling(seed=0))
    stream = Stream(submit=submit, dialect=sse.Native(), ticket=admission.admit(), route="/stream", arrived_at=at)
    stream.accept(3, 0.0)
    stream.delta([1], "x", at)
    stream.finish(finish(id), at)
    return stream


def test_it_is_kept_for_its_time() -> None:
    """Until ttl_s after its end; then it is gone, and that is known."""
    finished = Finished(ttl_s=10, max_streams=9, max_bytes=1 << 20)
    finished.add(ended("a", at=5))
    assert finished.forget(14.9) == [] and finished.get("a") is not None and not finished.is_gone("a")
    assert finished.forget(15) == ["a"] and finished.get("a") is None and finished.is_gone("a")


@pytest.mark.parametrize("limits", [{"max_streams": 3}, {"max_bytes": 3}])
def test_it_is_bounded(limits: dict[str, int]) -> None:
    """In number and in bytes; the oldest goes first."""
    streams = [ended(str(i), at=i) for i in range(10)]
    if "max_bytes" in limits:
        limits = {"max_bytes": 3 * streams[0].n_kept_bytes}
    finished = Finished(ttl_s=1000, **{"max_streams": 100, "max_bytes": 1 << 20} | limits)
    for stream in streams:
        finished.add(stream)
    assert [s.id for s in streams[:7]] == finished.forget(10)
    assert len(finished) == 3


def test_what_is_gone_is_not_remembered_for_ever() -> None:
    """Only the last max_streams of them."""
    finished = Finished(ttl_s=0, max_streams=3, max_bytes=1 << 20)
    for i in range(10):
        finished.add(ended(str(i), at=i))
        finished.forget(i)
    assert [str(i) for i in range(10) if finished.is_gone(str(i))] == ["7", "8", "9"]


def test_adding_it_twice_counts_once() -> None:
    """A stream that other replicas tell of may come again."""
    finished, stream = Finished(ttl_s=10, max_streams=9, max_bytes=1 << 20), ended("a", at=0)
    finished.add(stream)
    finished.add(stream)
    assert len(finished) == 1 and finished.forget(10) == ["a"]


def test_one_that_is_taken_out_leaves_no_trace() -> None:
    """Not even in the count of bytes: what was wrong may be read again from elsewhere."""
    finished = Finished(ttl_s=10, max_streams=9, max_bytes=1 << 20)
    stream = ended("a", at=5)
    finished.add(stream)
    finished.remove(stream)
    finished.remove(stream)
    assert (finished.get("a"), len(finished), finished._n_bytes, finished.is_gone("a")) == (None, 0, 0, False)


@pytest.mark.parametrize("kind", ["native", "chunks", "whole"])
@pytest.mark.parametrize("n_tokens", [1, 300])
def test_all_that_is_kept_is_counted(kind: str, n_tokens: int) -> None:
    """Within a third of what memory it takes: events, tokens, one-piece answers. A prompt is not kept."""

    def dialect() -> Dialect:
        answer = Answer("chat", "a model", "fingerprint")
        whole, chunks = Whole(answer), Chunks(answer, include_usage=True)
        return whole if kind == "whole" else chunks if kind == "chunks" else sse.Native()

    def kept(finished: Finished, id: str) -> None:
        admission = Admission(n_seq=1, max_waiting=0, closed=lambda: NotReady("no"))
        admission.open(n_seq=1)
        submit = Submit(id=id, text=f"{id} " * 10_000, sampling=Sampling(seed=0, grammar=f"# {id}\n" * 1000))
        ticket = admission.admit()
        stream = Stream(submit=submit, dialect=dialect(), ticket=ticket, route="/stream", arrived_at=0.0)
        stream.accept(3, 0.0)
        for i in range(n_tokens):
            stream.delta([1000 + i], f" word {i}", 0.1 * i)
        stream.finish(finish(id), 100.0)
        finished.add(stream)

    finished = Finished(ttl_s=1000, max_streams=1000, max_bytes=1 << 30)
    kept(finished, "first")
    counted = finished._n_bytes
    tracemalloc.start()
    try:
        for i in range(100):
            kept(finished, f"stream {i}")
        n_taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2 / 3 <= (finished._n_bytes - counted) / n_taken <= 3 / 2
