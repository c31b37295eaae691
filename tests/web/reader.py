"""What a reader does on the page, as often as tests do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from playwright.async_api import Page, Request

T = TypeVar("T")


async def load(page: Page, url: str | None = None) -> None:
    """Loads the page (None: the one that is there, anew), and again if a network interface came or went meanwhile, as
    one does with every container on this machine: Chromium then drops what it is loading, loopback or not."""
    dropped: list[str] = []

    def drop(request: Request) -> None:
        if request.failure == "net::ERR_NETWORK_CHANGED" and request.resource_type in ("script", "stylesheet"):
            dropped.append(request.url)

    page.on("requestfailed", drop)
    await (page.goto(url) if url else page.reload())
    while dropped:
        dropped.clear()
        await page.reload()
    page.remove_listener("requestfailed", drop)


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
