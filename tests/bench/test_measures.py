"""What counts as a gap, and which reader counts as served."""

from __future__ import annotations

import asyncio

import pytest

from tests.bench import measures
from tests.bench.load import Answer
from tests.conftest import Serve
from tests.patience import PATIENCE_S


def answer(*times: float, n_tokens: int | None = None, error: str = "") -> Answer:
    return Answer(began=0.0, times=list(times), n_tokens=len(times) if n_tokens is None else n_tokens, error=error)


def test_gaps_that_overlap() -> None:
    """Every gap that overlaps the interval counts, also one that begins before it or ends after it."""
    assert measures.gaps_between([0.0, 1.0, 3.0, 4.0, 9.0, 10.0], 2.0, 5.0) == [2.0, 1.0, 5.0]
    assert measures.gaps_between([], 2.0, 5.0) == []


@pytest.mark.parametrize(
    ("what", "served"),
    [
        (answer(1.0, 1.1, 1.2, 1.3), True),
        (answer(1.0, 1.0, 1.0, 1.0), True),  # all at once: the reader never waits
        (answer(2.5, 2.6), False),  # too late
        (answer(1.0, 1.1, 1.9, 1.9), False),  # a pause that a reader notices
        (answer(1.0, 1.9, n_tokens=2), False),
        (answer(1.0, 1.9, n_tokens=9), True),  # deltas of several tokens: there was enough to read meanwhile
        (answer(1.0, 1.1, error="cut"), False),
        (answer(error="429"), False),
    ],
)
def test_is_served(what: Answer, served: bool) -> None:
    """A reader of ten tokens a second is served if it got the first within two seconds and then never waited."""
    assert measures.is_served(what, 10.0) is served


async def test_every_measure_has_its_figures(serve: Serve) -> None:
    """Against a service with a scripted engine each measure ends, and has figure names of its own."""
    service = await serve(n_seq=16)
    assert await measures.warm_up(service.url) == 3  # tokens, by the script
    found: dict[str, float] = {}
    for measure in (
        measures.tokens_per_s(2),
        measures.tokens_per_s(2, temperature=0.8),
        measures.share_of_engine(2, engine_s=0.5),
        measures.shared_prefix,
        measures.readers_served(3, n_tokens=8, pace=10.0),
        measures.readers_served(3, n_tokens=8, pace=None),
    ):
        figures = await measure(service.url, "salt")
        assert not set(figures) & set(found)
        found |= figures
    assert len(found) == 8
    served = {found.pop(name) for name in list(found) if name.startswith("of 3 readers")}
    assert served <= {0.0, 1.0, 2.0, 3.0}  # depends on the speed of this machine
    assert min(found.values()) > 0
    prompts = [submit.text for submit in service.engine.submitted]
    assert len(prompts) == len(set(prompts))  # no measure profits from another's prefix cache


async def test_long_prompts_with_running_streams(serve: Serve) -> None:
    """The streams run while the long prompts arrive, and end with the measurement."""
    service = await serve(n_seq=16)
    service.engine.pause_s = 0.001
    figures = await measures.with_long_prompts(service.url, "long")
    assert sorted(name.rpartition(": ")[2] for name in figures) == ["ITL p99, s", "TTFT p50, s"]
    async with asyncio.timeout(PATIENCE_S):
        while await service.metric("llm_streams"):  # noqa: ASYNC110  # only the service's metrics show it
            await asyncio.sleep(0.01)
