"""A real service process, a real browser, and a proxy between them whose connections can be cut."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.e2e.wire import Wire
from tests.patience import LIMITS, PATIENCE_S
from tests.programs import required
from tests.running import running
from tests.web.reader import load

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

expect.set_options(timeout=1000 * PATIENCE_S)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: needs more than Python (nginx, Docker, Chromium); CI skips none")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def port() -> AsyncIterator[int]:
    """`python -m service` with default settings but for long timeouts, on a free port, ready."""
    async with running(**LIMITS) as service:
        yield service.port


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = required("Chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def wire(port: int) -> AsyncIterator[Wire]:
    async with Wire(port) as wire:
        yield wire


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, wire: Wire, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """The page, loaded through the wire; its parameter may be "dark". $SHOTS gets a picture of its final state."""
    scheme: Literal["light", "dark"] = getattr(request, "param", "light")
    async with await browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme=scheme) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        page = await context.new_page()
        await load(page, wire.url)
        yield page
        if folder := os.environ.get("SHOTS"):
            await page.screenshot(path=f"{folder}/service-{request.node.name}.png")
