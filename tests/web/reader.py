"""What a reader does on the page, as often as tests do it."""

from __future__ import annotations

from playwright.async_api import Page


async def ask(page: Page, prompt: str = "Tell me a story") -> None:
    await page.get_by_role("textbox", name="Prompt").fill(prompt)
    await page.get_by_role("textbox", name="Prompt").press("Enter")
