"""The soak test distinguishes growth from noise, and its visits do what they should."""

from __future__ import annotations

import random

import pytest

from tests.bench import soak
from tests.bench.soak import MIB, Look, growth
from tests.patience import PATIENCE_S
from tests.running import running


def test_noise_is_not_growth() -> None:
    """Memory that fluctuates about one value has not grown."""
    found = growth([(i, 100 * MIB + (i % 2) * MIB) for i in range(100)])
    assert found.first == pytest.approx(found.last, abs=MIB / 10)
    assert abs(found.per_thousand) < MIB


def test_growth_is_measured() -> None:
    """A KiB per request is a thousand KiB per thousand, and the last quarter exceeds the first accordingly."""
    found = growth([(i, 100 * MIB + 1024 * i) for i in range(0, 4000, 40)])
    assert found.per_thousand == pytest.approx(1024 * 1000)
    assert found.last - found.first == pytest.approx(1024 * 3000)
    assert found.row("front", 100 * MIB, 104 * MIB).startswith(
        "| front | 100.0 | 104.0 | 100.5 | 103.4 | 2.9 | +1000.0"
    )


def test_the_warm_up_does_not_count() -> None:
    """Allocations in the first quarter are not growth."""
    looks = [Look(i, front=MIB * min(i, 10), engine=MIB) for i in range(40)]
    assert all(row.endswith("| +0.0 KiB |") for row in soak.rows(looks))


async def test_a_short_soak() -> None:
    """Sixty visits to the real service have every outcome, no failure, and leave nothing behind."""
    async with running(**soak.SETTINGS) as service:
        looks, visits = await soak.soak(service, 60, PATIENCE_S, random.Random(1))
        assert [look.n for look in looks] == list(range(1, 61))
        assert visits.outcomes.total() == 60
        assert {"done", "left", "resumed", "cancelled"} <= set(visits.outcomes)
        assert not visits.wrong
        assert await soak.left_over(service) == "0 streams, 0 readers"
        assert "wrong: nothing" in soak.tables(looks, visits)
