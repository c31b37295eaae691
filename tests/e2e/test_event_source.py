"""README's code for pages of one's own, in real Chromium: an EventSource on a connection that breaks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.e2e.wire import Wire
from tests.events import parse, text
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

README = Path(__file__).parent.parent.parent / "README.md"
QUERY = "/stream?prompt=Tell+me+a+story+about+a+river&max_tokens=100&ignore_eos=true&seed=7&key=readme"


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, wire: Wire) -> AsyncIterator[Page]:
    """An empty page of the service's origin, in which any script can run."""
    async with await browser.new_context(bypass_csp=True) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        page = await context.new_page()
        await page.goto(wire.url + "healthz")
        yield page


async def test_an_event_source_reads_over_cuts(page: Page, wire: Wire) -> None:
    """The function in README reads every event once, however often the connection breaks."""
    (example,) = re.findall(r"^```js\n(.*?)^read\(", README.read_text(), re.MULTILINE | re.DOTALL)
    tell = "{ status: () => 0, text: (text) => { said += text; }, done: (event) => { end = event; }, failure: () => 0 }"
    await page.add_script_tag(content=f"{example} let said = '', end = null; read('{QUERY}&pace=25', {tell});")
    for n in (10, 100, 200):
        await page.wait_for_function(f"said.length > {n}")
        wire.cut()
    await page.wait_for_function("end !== null")
    async with aiohttp.ClientSession() as client, client.get(wire.url.rstrip("/") + QUERY) as response:
        whole = parse(await response.read())
    assert await page.evaluate("said") == text(whole)
    assert await page.evaluate("end.finish_reason") == whole[-1].json()["finish_reason"] == "length"
