"""What a reader does on the page, as often as tests do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from playwright.async_api import Page

T = TypeVar("T")


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
