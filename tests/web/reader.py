"""What a reader does on the page, as often as tests do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from playwright.async_api import Page

T = TypeVar("T")


async def load(page: Page, url: str) -> None:
    """Loads the page, and again if a network interface came or went meanwhile, as one does with every container on this
    machine: Chromium then drops what it is loading, loopback or not."""
    dropped: list[str] = []
    page.on("requestfailed", lambda request: dropped.append(request.failure or ""))
    await page.goto(url)
    while "net::ERR_NETWORK_CHANGED" in dropped:
        dropped.clear()
        await page.goto(url)


async def ask(page: Page, prompt: str = "Tell me a story") -> None:
    await page.get_by_role("textbox", name="Prompt").fill(prompt)
    await page.get_by_role("textbox", name="Prompt").press("Enter")


async def options(page: Page) -> None:
    """Opens the drawer, which the page opens by itself where a key is asked for."""
    await page.locator("details").evaluate("(drawer) => { drawer.open = true; }")


async def passing(page: Page, awaited: Awaitable[T]) -> T:
    """The page's time, which the test has taken over, passes quickly until this has come."""
    coming = asyncio.ensure_future(awaited)
    while not coming.done():
        await page.clock.fast_forward(250)
    return await coming
