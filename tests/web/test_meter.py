"""The figures, from given times: the module is pure, and Chromium is only the interpreter it runs in."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

# Deltas at the given times after a start at 1,000 ms, then the three figures; the live rate as of `now`.
METER = """async ({deltas, now, tokens, before}) => {
  const { Meter } = await import("/web/meter.js");
  const meter = new Meter(1000, ...before);
  for (const at of deltas) meter.delta(at);
  return [meter.firstTokenS, meter.liveRate(now), meter.finalRate(tokens)].map((n) => Number.isNaN(n) ? null : n);
}"""


@pytest.mark.parametrize(
    ("deltas", "now", "tokens", "expected"),
    [
        pytest.param([], 2000, 0, [None, None, None], id="nothing yet"),
        pytest.param([1250], 1300, 1, [0.25, None, None], id="one token is no rate"),
        pytest.param([1500, 1600, 1700, 1800], 2000, 4, [0.5, 6, 10], id="the live rate falls in a pause"),
        pytest.param([1500, 1600], 9000, 2, [0.5, 0, 10], id="a stall is zero"),
        pytest.param([1500, 1501, 1502], 1502, 200, [0.5, None, None], id="one breath is not measured"),
        pytest.param([1000, 2000], 2000, 41, [0, 1, 40], id="the count is the service's, deltas hold many"),
    ],
)
async def test_figures(page: Page, deltas: list[int], now: int, tokens: int, expected: list[float | None]) -> None:
    """Seconds to first token, rate over the last three seconds, rate over the whole; none from too little data."""
    assert expected == await page.evaluate(METER, {"deltas": deltas, "now": now, "tokens": tokens, "before": []})


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param([20, 0.25], [0.25, 10, 10], id="the rest of an answer"),
        pytest.param([0, None], [0.5, 10, 50], id="all of it: the wait was longer than the page is old"),
    ],
)
async def test_figures_after_a_reload(page: Page, before: list[float | None], expected: list[float]) -> None:
    """The time to first token is kept; rates cover what this page has seen, counts all that was received."""
    asked = {"deltas": [1500, 1600, 1700, 1800, 1900], "now": 1900, "tokens": 25 if before[0] else 21, "before": before}
    assert expected == await page.evaluate(METER, asked)
