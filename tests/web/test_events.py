"""The parser of Server-Sent Events, from given text: Chromium is only the interpreter it runs in."""

from __future__ import annotations

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

PARSER = """async (pieces) => {
  const { Parser } = await import("/web/events.js");
  const parser = new Parser();
  const events = pieces.flatMap((piece) => parser.push(piece)).map(({ id, type, data }) => [id, type, data]);
  return [events, Number.isNaN(parser.retryMs) ? null : parser.retryMs];
}"""

BYTES = """async (chunks) => {
  const { pieces } = await import("/web/events.js");
  const body = new ReadableStream({
    pull(controller) {
      const chunk = chunks.shift();
      if (chunk) controller.enqueue(new Uint8Array(chunk));
      else controller.error(new TypeError("network error"));
    },
  });
  const taken = [];
  for await (const piece of pieces(body)) taken.push(piece);
  return taken;
}"""


@pytest.mark.parametrize(
    ("pieces", "events", "retry_ms"),
    [
        pytest.param(["id: a.0\ndata: {}\n\n"], [["a.0", "message", "{}"]], None, id="an event"),
        pytest.param(["id: a.0\nevent: done\ndata: {}\n\n"], [["a.0", "done", "{}"]], None, id="one with a name"),
        pytest.param(
            ["da", "ta: x\n", "\ndata: y\n", "\n"], [["", "message", "x"], ["", "message", "y"]], None, id="cut up"
        ),
        pytest.param(["retry: 2029\nid: a.0\ndata: 1\n\n"], [["a.0", "message", "1"]], 2029, id="with its retry"),
        pytest.param(["retry: 1500\n\n"], [], 1500, id="nothing but a retry time"),
        pytest.param([": hb\n", "data: 1\n\n"], [["", "message", "1"]], None, id="a heartbeat is not an event"),
        pytest.param(["event: done\n\ndata: 1\n\n"], [["", "message", "1"]], None, id="no data, no event"),
        pytest.param(["data: half an ev"], [], None, id="half an event is not an event"),
        pytest.param(["data:  a: b\ndata:c\n\n"], [["", "message", " a: b\nc"]], None, id="one space, one colon"),
    ],
)
async def test_events(page: Page, pieces: list[str], events: list[list[str]], retry_ms: int | None) -> None:
    """Text cut into any pieces gives the events that WHATWG HTML 9.2 defines, where lines end in LF."""
    assert [events, retry_ms] == await page.evaluate(PARSER, pieces)


async def test_a_character_cut_in_half_is_whole(page: Page) -> None:
    """A character whose bytes arrive in two chunks is that character, and a broken connection is only an end."""
    fox = list("🦊".encode())
    assert "".join(await page.evaluate(BYTES, [fox[:2], fox[2:]])) == "🦊"
