"""prefill_chunks.py: a step with running streams converges to its target time within a few steps, on any machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.scheduling.prefill_chunks import FEWEST, LEAST, PrefillChunker

# Seconds that a step with n rows takes.
COMPUTE_BOUND = {"a CPU": 0.004, "a slower CPU": 0.012}
MEMORY_BOUND = {"a GPU": (0.03, 0.0001), "a small GPU": (0.06, 0.001)}
MACHINES: dict[str, Callable[[int], float]] = {
    **{name: lambda n, row_s=row_s: row_s * n for name, row_s in COMPUTE_BOUND.items()},  # type: ignore[misc]
    **{name: lambda n, of=of: of[0] + of[1] * n for name, of in MEMORY_BOUND.items()},  # type: ignore[misc]
}


def after(slices: PrefillChunker, step_s: Callable[[int], float], n_decoding: int, n_steps: int) -> float:
    """The duration of the last of these steps."""
    took = 0.0
    for _ in range(n_steps):
        n = slices.size(n_decoding, 1)
        took = step_s(n_decoding + n)
        slices.observe(n_decoding, n, took)
    return took


@pytest.mark.parametrize("n_decoding", [2, 8, 20])
@pytest.mark.parametrize("name", MACHINES)
def test_the_step_time_converges_to_the_target(name: str, n_decoding: int) -> None:
    """Within 40 steps with prefill it is within a tenth of the target, unless the chunk has its minimum or maximum
    size."""
    slices = PrefillChunker(target_s=0.2, n_batch=100_000)
    took = after(slices, MACHINES[name], n_decoding, 40)
    assert took == pytest.approx(0.2, rel=0.1) or (took > 0.2 and slices.size(n_decoding, 1) <= LEAST)


def test_a_slow_step_is_noticed_and_forgotten() -> None:
    """One step that took five times as long changes the next chunks, but no longer after ten."""
    slices = PrefillChunker(target_s=0.2, n_batch=512)
    after(slices, MACHINES["a CPU"], 4, 10)
    before = slices.size(4, 1)
    slices.observe(4, before, 1.0)
    assert slices.size(4, 1) < before
    after(slices, MACHINES["a CPU"], 4, 10)
    assert slices.size(4, 1) == pytest.approx(before, abs=2)


def test_waiting_prompts_lengthen_the_step() -> None:
    """The more prompts there are per running stream the longer the step, up to MOST_TIMES; as it is without running
    streams."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004)
    sizes = [slices.size(n_decoding, n_reading) for n_decoding, n_reading in ((8, 1), (8, 4), (8, 8), (8, 100), (0, 1))]
    assert sizes == [40, 40, 92, 140, 148]  # of 42, 42, 92, 142, 150


def test_bounds() -> None:
    """Never fewer than LEAST or than the decoding rows, never more than fit the batch; the first chunk is small.
    Where LEAST would take longer than the target it is as many as the target allows, but never fewer than FEWEST."""
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=0.2 / 30).size(4, 1) == 24
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=1.0).size(4, 1) == FEWEST
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004).size(100, 1) == 100
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004).size(1000, 1) == 512
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=1e-9).size(4, 1) == 512
    assert PrefillChunker(target_s=0.2, n_batch=8).size(4, 1) == 8
    assert PrefillChunker(target_s=0.2, n_batch=512).size(4, 1) == 2 * LEAST


def test_speeds_are_known_by_number_of_threads() -> None:
    """A number of threads that was used before has the speed that it had, another one is expected to be as much slower
    as it has fewer threads."""
    chunker = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004)
    chunker.use(2)
    chunker.observe(4, 0, 0.04)
    assert (chunker.row_s, chunker.decode_s) == (0.004, 0.04), "measured at load, with as many"
    chunker.use(1)
    assert (chunker.row_s, chunker.decode_s) == (0.008, 0.08)
    after(chunker, lambda n: 0.005 * n, 4, 40)
    chunker.use(2)
    assert (chunker.row_s, chunker.decode_s) == (0.004, 0.04)
    chunker.use(1)
    assert chunker.row_s == pytest.approx(0.005, rel=0.01)


def test_rows_are_a_multiple_of_four() -> None:
    """Chunk and running streams together, or the chunk alone if it is decoded alone, are a multiple of four rows."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, n_tile=64, row_s=0.01)
    assert [(n, (slices.size(n, 1) + n) % 4) for n in range(2, 20)] == [(n, 0) for n in range(2, 20)]
    assert [slices.size(n, 100) % 4 for n in range(1, 40)] == [0] * 39


def test_chunks_of_whole_tiles() -> None:
    """From a third of a tile on chunks are whole tiles, for which attention is faster; without tiles they keep their
    size."""
    row_s = [0.2 / n for n in (1000, 160, 100, 68, 60, 26, 25, 20)]
    sizes = [PrefillChunker(target_s=0.2, n_batch=512, n_tile=64, row_s=s).size(4, 1) for s in row_s]
    assert sizes == [512, 128, 128, 64, 64, 64, 20, 16]
    assert PrefillChunker(target_s=0.2, n_batch=512, row_s=0.2 / 40).size(4, 1) == 36


def test_several_tenants_get_the_same_time() -> None:
    """Prefill gets a share of the time of a step without any, at least LEAST tokens and no more than with one
    tenant."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.001)
    alone = slices.size(4, 1)
    assert slices.size(4, 1, 1.0) == alone, "the time of a step is not known yet"
    slices.observe(4, 0, 0.08)
    assert [slices.size(4, 1, share) for share in (None, 0.25, 1.0, 2.0, 10.0)] == [alone, LEAST, 80, 160, alone]
    for _ in range(20):
        slices.observe(4, 0, 0.04)
    assert slices.size(4, 1, 1.0) == 40


def test_steps_with_little_prefill_are_not_measured() -> None:
    """The fixed cost of a step is not the cost of a token."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004)
    slices.observe(1, LEAST // 2 - 1, 10.0)
    slices.observe(30, 0, 10.0)
    assert slices.row_s == 0.004


anything = st.floats() | st.floats(0.0, 1e-6) | st.sampled_from([5e-324, 1e308])


@given(st.lists(anything, max_size=20), anything, st.integers(0, 64), st.integers(0, 64))
def test_no_measurement_stops_prefill(steps_s: list[float], row_s: float, n_decoding: int, n_reading: int) -> None:
    """After any measurements there is a chunk, within its bounds; and forty steps are enough to forget them."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=row_s if row_s > 0 else 0.0)
    for step_s in steps_s:
        slices.observe(4, 40, step_s)
        slices.observe(4, 0, step_s)
        assert 1 <= slices.size(n_decoding, n_reading) <= 512
        assert 1 <= slices.size(n_decoding, n_reading, 0.5) <= 512
    for _ in range(40):
        slices.observe(4, 40, 44 * 0.004)
    assert slices.row_s == pytest.approx(0.004, rel=0.01)


def test_repr() -> None:
    """repr shows the chunk with four running streams, and why."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004)
    assert repr(slices) == "<PrefillChunker 44 tokens, 4.00 ms each, for 200 ms>"


def test_steps_are_short_with_several_tenants() -> None:
    """Without running streams a step may be long for a single tenant's prompts, but not if several tenants have
    some."""
    slices = PrefillChunker(target_s=0.2, n_batch=512, row_s=0.004)
    assert [slices.size(0, 2, share) for share in (None, 2.0)] == [148, 48]
