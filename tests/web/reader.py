"""Common actions of a reader on the page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from playwright.async_api import Page, Request

T = TypeVar("T")


async def load(page: Page, url: str | None = None) -> None:
    """Loads the page (None: reloads it), and again if a network interface came or went meanwhile, as happens with every
    container on this machine: Chromium then aborts its loads, loopback or not."""
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
    """Opens the drawer, which the page opens by itself where a key is required."""
    await page.locator("details").evaluate("(drawer) => { drawer.open = true; }")


async def passing(page: Page, awaited: Awaitable[T]) -> T:
    """Advances the page's time, which the test controls, quickly until `awaited` is done."""
    coming = asyncio.ensure_future(awaited)
    while not coming.done():
        await page.clock.fast_forward(250)
    return await coming
