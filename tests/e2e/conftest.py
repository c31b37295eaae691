"""A real service process, a real browser, and a wire between them that can be cut."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from .wire import Wire

LOAD_S = 120  # a model is mapped in a second; a busy CI machine gets time
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

expect.set_options(timeout=15_000)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "e2e: needs a program beside Python (nginx, Docker, Chromium); CI skips none")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def port() -> AsyncIterator[int]:
    """`python -m service` as a newcomer starts it, on a free port, ready: no setting but the port."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", env=environment | {"RILL_PORT": "0"}, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(LOAD_S), aiohttp.ClientSession() as client:
            assert process.stdout is not None
            while (match := re.search(rb"http://[^/\s]*:(\d+)/", await process.stdout.readline())) is None:
                assert process.returncode is None
            port = int(match[1])
            while (await client.get(f"http://127.0.0.1:{port}/readyz")).status != 200:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
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
    """The page, loaded over the wire; its parameter may be "dark". $SHOTS gets a picture of how it ended."""
    scheme: Literal["light", "dark"] = getattr(request, "param", "light")
    async with await browser.new_context(viewport={"width": 1100, "height": 800}, color_scheme=scheme) as context:
        page = await context.new_page()
        await page.goto(wire.url)
        yield page
        if folder := os.environ.get("SHOTS"):
            await page.screenshot(path=f"{folder}/service-{request.node.name}.png")
