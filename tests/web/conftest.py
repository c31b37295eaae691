"""Chromium for the page's tests: one browser for all, one page and one scripted service for each."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.patience import PATIENCE_S
from tests.programs import required
from tests.web.reader import load
from tests.web.scripted import Service


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: end to end, needs what .ci/run installs (Chromium, nginx, containers)")


FLAGS = [
    "--no-sandbox",  # tests run as root in containers, where Chromium's sandbox does not start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Chromium's messages about a connection that a test refused or cut; anything else on the console is a fault.
EXPECTED = ("Failed to load resource", "net::ERR_")

expect.set_options(timeout=1000 * PATIENCE_S)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = required("Chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.listen()
    yield service
    await service.leave()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, service: Service) -> AsyncIterator[Page]:
    """The page, loaded; any console error fails the test."""
    async with await browser.new_context(viewport={"width": 1100, "height": 800}) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        page = await context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        await load(page, service.url)
        yield page
        assert [line for line in complaints if not any(words in line for words in EXPECTED)] == []


@pytest.fixture
def shots() -> Path | None:
    """The directory for screenshots: $SHOTS, or none."""
    folder = os.environ.get("SHOTS")
    if not folder:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
