"""The page in real Chromium on the real service with the embedded model, as a visitor sees it."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.e2e.wire import Wire
from tests.running import running
from tests.web.reader import load, passing

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def ask(page: Page, prompt: str, *, pace: str = "Fast", longest: int | None = None) -> str:
    """Submits the prompt and returns the address of the stream's log."""
    await page.get_by_label(pace, exact=True).check()
    if longest is not None:
        await page.get_by_text("Options").click()
        await page.get_by_label("Longest answer").fill(str(longest))
    await page.get_by_role("textbox", name="Prompt").fill(prompt)
    async with page.expect_response("**/stream?*") as started:
        await page.get_by_role("textbox", name="Prompt").press("Enter")
    return f"{page.url}v1/streams/{(await started.value).headers['x-stream-id']}"


async def log_of(url: str, *, key: str = "") -> tuple[str, dict[str, Any]]:
    """The complete text of a stream and its last event, as the service has them."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        assert response.status == 200
        events = [json.loads(data) for data in re.findall(r"^data: (.*)$", await response.text(), re.MULTILINE)]
    return "".join(event["text"] for event in events if "text" in event), events[-1]


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
async def test_an_answer_arrives(page: Page) -> None:
    """A visitor sees the model's name, the text as it is generated, its end, and consistent figures."""
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
    # 25 a second was requested: a busy machine may give less, and none gives more.
    await expect(page.locator("#rate")).to_have_text(re.compile(r"^(1|2)?\d$"))


async def test_cuts_lose_and_repeat_nothing(page: Page, wire: Wire) -> None:
    """The connection breaks three times in one answer; the page's text equals the service's exactly."""
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


async def test_an_absence_is_bridged(page: Page, wire: Wire) -> None:
    """While the service can't be reached the page keeps trying, and nothing is lost or repeated."""
    url = await ask(page, "Tell me a story about the moon", pace="Reading", longest=100)
    await expect(page.locator("#answer")).to_have_text(re.compile(r"^[\s\S]{10,}$"))
    await wire.close()
    async with page.expect_event("requestfailed"), page.expect_event("requestfailed"):
        await expect(page.locator("#status")).to_have_text("Reconnecting…")
    await wire.open()
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert (await log_of(url))[0] == await page.locator("#answer").text_content()


async def test_retry_after_a_long_absence(page: Page, wire: Wire) -> None:
    """The page gives up with a message; Retry within the stream's time to live continues after the text that is
    there."""
    await page.clock.install()
    await load(page)
    url = await ask(page, "Tell me a story about a ship", pace="Reading", longest=100)
    await expect(page.locator("#answer")).to_have_text(re.compile(r"^[\s\S]{10,}$"))
    await wire.close()
    await passing(page, expect(page.locator("#status")).to_have_text("Failed"))
    await expect(page.get_by_role("alert")).to_contain_text("connection_lost")
    await wire.open()
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert (await log_of(url))[0] == await page.locator("#answer").text_content()


async def test_a_prompt_while_the_service_is_away(page: Page, wire: Wire) -> None:
    """Nothing was accepted: the page says that it can't reach the service, and Retry sends the prompt."""
    await page.clock.install()
    await load(page)
    await wire.close()
    await page.get_by_role("textbox", name="Prompt").fill("Count from 1 to 20")
    await page.get_by_role("textbox", name="Prompt").press("Enter")
    await passing(page, expect(page.locator("#status")).to_have_text("Failed"))
    await expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    await wire.open()
    async with page.expect_response("**/stream?*") as started:
        await page.get_by_role("button", name="Retry").click()
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    url = f"{page.url}v1/streams/{(await started.value).headers['x-stream-id']}"
    assert (await log_of(url))[0] == await page.locator("#answer").text_content()


async def test_a_reload_loses_nothing(page: Page) -> None:
    """Reloaded twice during an answer, and once after its end, the page has the service's text."""
    url = await ask(page, "Tell me a story about an owl", pace="Reading", longest=100)
    for _ in range(2):
        shown = len(await page.locator("#answer").text_content() or "")
        await expect(page.locator("#answer")).to_have_text(re.compile(rf"^[\s\S]{{{shown + 10},}}$"))
        await load(page)
        await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Tell me a story about an owl")
        assert len(await page.locator("#answer").text_content() or "") >= shown + 10
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    await load(page)
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    assert (await log_of(url))[0] == await page.locator("#answer").text_content()


async def test_a_reload_right_after_the_prompt(page: Page) -> None:
    """A page that does not know yet whether its prompt was accepted sends it again, and it is answered once."""
    await page.get_by_role("textbox", name="Prompt").fill("Tell me a story about a cat")
    before = await n_answers(page)
    await page.get_by_role("textbox", name="Prompt").press("Enter")
    await load(page)
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Tell me a story about a cat")
    await expect(page.locator("#answer")).to_have_text(re.compile(r"\S"))
    assert await n_answers(page) == before + 1


async def n_answers(page: Page) -> float:
    """The number of answers that the service has completed."""
    text = await (await page.request.get(f"{page.url}metrics")).text()
    ends = re.findall(r'^llm_requests_total{(?=.*outcome="(?:stop|length)").*} (\S+)$', text, re.MULTILINE)
    return sum(float(n) for n in ends)


async def test_stop_ends_the_generation(page: Page) -> None:
    """Stop reaches the service: the stream has ended there when the page says Stopped, and no more text arrives."""
    url = await ask(page, "Tell me a long story", pace="Relaxed")
    await expect(page.locator("#answer")).to_have_text(re.compile(r"\S"))
    async with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        await page.get_by_role("button", name="Stop").click()
    assert (await deleted.value).status == 204
    await expect(page.locator("#status")).to_have_text("Stopped")
    shown = await page.locator("#answer").text_content() or ""
    text, last = await log_of(url)
    # The small model may have completed its answer while the first paced words were on their way.
    assert last["finish_reason"] in ("cancelled", "stop", "length")
    assert text.startswith(shown)
    assert shown == await page.locator("#answer").text_content()


async def test_a_prompt_beyond_the_context_is_explained(page: Page) -> None:
    """The service's own 400 is shown: the prompt's length and the maximum."""
    await page.get_by_role("textbox", name="Prompt").fill("river and fox " * 40_000)
    await page.get_by_role("textbox", name="Prompt").press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text(re.compile(r"\d+ tokens"))
    await expect(page.get_by_role("alert")).to_contain_text("context_length_exceeded")


async def test_a_service_with_keys(browser: Browser) -> None:
    """With keys required on every route the page asks for one, streams with it, resumes and stops; no other key is
    accepted."""
    async with (
        running(api_keys="sk-one,sk-two", streams_need_key="true") as service,
        Wire(service.port) as wire,
        await browser.new_context() as context,
    ):
        page = await context.new_page()
        await load(page, wire.url)
        await page.get_by_role("textbox", name="Prompt").fill("Tell me a story about a bear")
        await page.get_by_role("textbox", name="Prompt").press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("asks for an API key")
        await page.get_by_label("API key").fill("sk-three")
        await page.get_by_role("button", name="Retry").click()
        await expect(page.get_by_role("alert")).to_contain_text("does not know this API key")
        await page.get_by_label("API key").fill("sk-two")
        async with page.expect_response("**/stream?*") as started:
            await page.get_by_label("API key").press("Enter")
        url = f"{service.url}/v1/streams/{(await started.value).headers['x-stream-id']}"
        await expect(page.locator("#answer")).to_have_text(re.compile(r"^[\s\S]{10,}$"))
        wire.cut()
        await expect(page.locator("#status")).to_have_text("Reconnecting…")
        await expect(page.locator("#status")).to_have_text("Answering")
        await load(page)
        await expect(page.locator("#status")).to_have_text("Answering")
        async with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
            await page.get_by_role("button", name="Stop").click()
        assert (await deleted.value).status == 204
        text, _ = await log_of(url, key="sk-two")
        assert text.startswith(await page.locator("#answer").text_content() or "-")
