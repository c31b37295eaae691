"""The API's page in a browser: it fits a phone, light and dark, and its policy blocks nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, Route

import service
from service.api.openapi import document
from service.api.page_routes import SECURITY, TYPES
from service.api.reference_page import page as reference
from tests.patience import PATIENCE_S
from tests.web.test_layout import CONTRAST

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

WEB = Path(service.__file__).parent / "web"
ADDRESS = "http://127.0.0.1:9"  # nothing is asked of it: `answer` does


async def answer(route: Route) -> None:
    """The page, and its files; anything else is no part of it."""
    path = route.request.url.removeprefix(ADDRESS)
    if path == "/docs":
        await route.fulfill(body=reference(document("1")), headers={**SECURITY, "Content-Type": TYPES[".html"]})
        return
    file = WEB / path.removeprefix("/web/")
    assert file.parent == WEB and file.exists(), path
    await route.fulfill(body=file.read_bytes(), headers={**SECURITY, "Content-Type": TYPES[file.suffix]})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
async def test_it_fits(browser: Browser, shots: Path | None, scheme: str, width: int) -> None:
    """Nothing overflows, all text has WCAG's contrast, and the console says nothing."""
    dark = scheme == "dark"
    async with await browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme="dark" if dark else "light"
    ) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        page = await context.new_page()
        said: list[str] = []
        page.on("console", lambda line: said.append(line.text))
        await page.route("**/*", answer)
        await page.goto(f"{ADDRESS}/docs")
        assert width >= await page.evaluate("() => document.documentElement.scrollWidth")
        for name in ("h1", "h2", "h3", "h3 b", "p", "nav a", "nav b", "th", "td", "td code", "td a"):
            assert await page.locator(name).first.evaluate(CONTRAST) >= 4.5, name
        await page.locator("nav a").last.click()
        assert await page.evaluate("() => document.querySelector(':target h3') !== null")
        assert said == []
        if shots is not None:
            await page.screenshot(path=shots / f"reference-{scheme}-{width}.png")
