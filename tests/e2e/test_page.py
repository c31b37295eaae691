"""The page in real Chromium on the real service with the embedded model: what a visitor gets."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, expect

from .wire import Wire

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def ask(page: Page, prompt: str, *, pace: str = "Fast", longest: int | None = None) -> str:
    """Asks and returns the address that the page's EventSource read: asked again, it replays the stream's log."""
    await page.get_by_label(pace, exact=True).check()
    if longest is not None:
        await page.get_by_text("Options").click()
        await page.get_by_label("Longest answer").fill(str(longest))
    await page.get_by_role("textbox", name="Prompt").fill(prompt)
    async with page.expect_request(lambda request: "/stream" in request.url and request.method == "GET") as started:
        await page.get_by_role("textbox", name="Prompt").press("Enter")
    return (await started.value).url


async def log_of(url: str) -> tuple[str, dict[str, Any]]:
    """The whole text of a stream and its last event, as the service has them. Unpaced."""
    async with aiohttp.ClientSession() as client, client.get(re.sub(r"pace=\d+", "", url)) as response:
        assert response.status == 200
        events = [json.loads(data) for data in re.findall(r"^data: (.*)$", await response.text(), re.MULTILINE)]
    return "".join(event["text"] for event in events if "text" in event), events[-1]


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
async def test_an_answer_arrives(page: Page) -> None:
    """A visitor sees the model's name, the text while it is being made, its end, and figures that add up."""
    await expect(page.locator("#model")).not_to_be_empty()
    url = await ask(page, "Tell me a story about a fox", longest=100)
    await expect(page.locator("#status")).to_have_text("Answering")
    await expect(page.locator("#answer")).to_have_text(re.compile(r"\S"))
    early = await page.locator("#answer").text_content() or ""
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    text, done = await log_of(url)
    assert early and text.startswith(early) and len(early) < len(text)
    assert await page.locator("#answer").text_content() == text
    await expect(page.locator("#tokens")).to_have_text(str(done["usage"]["completion_tokens"]))
    # 25 a second was asked for: a busy machine may give less, and none gives more.
    await expect(page.locator("#rate")).to_have_text(re.compile(r"^(1|2)?\d$"))


async def test_cuts_lose_and_repeat_nothing(page: Page, wire: Wire) -> None:
    """The connection breaks three times in one answer; the page's text is the service's, to the character."""
    url = await ask(page, "Tell me a story about a river", pace="Reading", longest=100)
    for _ in range(3):
        before = len(await page.locator("#answer").text_content() or "")
        await expect(page.locator("#answer")).to_have_text(re.compile(rf"^[\s\S]{{{before + 10},}}$"))
        wire.cut()
        await expect(page.locator("#status")).to_have_text("Reconnecting…")
        await expect(page.locator("#status")).not_to_have_text("Reconnecting…")
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    text, _ = await log_of(url)
    assert await page.locator("#answer").text_content() == text


async def test_stop_ends_the_generation(page: Page) -> None:
    """Stop reaches the service: the stream has ended there when the page says Stopped, and no more text comes."""
    url = await ask(page, "Tell me a long story", pace="Relaxed")
    await expect(page.locator("#answer")).to_have_text(re.compile(r"\S"))
    async with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        await page.get_by_role("button", name="Stop").click()
    assert (await deleted.value).status == 204
    await expect(page.locator("#status")).to_have_text("Stopped")
    shown = await page.locator("#answer").text_content() or ""
    text, last = await log_of(url)
    # The small model may have made its whole answer while the first paced words were on their way.
    assert last["finish_reason"] in ("cancelled", "stop", "length")
    assert text.startswith(shown)
    assert shown == await page.locator("#answer").text_content()


async def test_a_prompt_beyond_the_context_is_explained(page: Page) -> None:
    """The service's own 400 reaches the reader: how long the prompt is and how long it may be."""
    await page.get_by_role("textbox", name="Prompt").fill("river and fox " * 40_000)
    await page.get_by_role("textbox", name="Prompt").press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text(re.compile(r"\d+ tokens"))
    await expect(page.get_by_role("alert")).to_contain_text("context_length_exceeded")
