"""One generation on the page, from the prompt to its end, on a stable connection."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask
from tests.web.scripted import Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_text_arrives_before_the_end(page: Page, service: Service) -> None:
    """Each delta is on the page while the stream is still open, and done changes no character of it."""
    await ask(page)
    stream = await service.next()
    await stream.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    await stream.text(" upon", "\n\n  a time 🦊")
    await expect(page.locator("#answer")).to_have_text("Once upon\n\n  a time 🦊", use_inner_text=True)
    await expect(page.locator("#status")).to_have_text("Answering")
    assert not stream.finished.is_set()
    await stream.done()
    await expect(page.locator("#status")).to_have_text("Done")
    assert await page.locator("#answer").text_content() == "Once upon\n\n  a time 🦊"


async def test_each_status_is_shown(page: Page, service: Service) -> None:
    """Waiting is shown as it changes: the place in the queue, the prompt's progress, then the answer."""
    status, announced = page.locator("#status"), page.get_by_role("status")
    progress = page.get_by_role("progressbar")
    await ask(page)
    stream = await service.next()
    await stream.status("queued", position=3, eta_s=4.2)
    await expect(status).to_have_text("Queued 3rd, about 5 s")
    await expect(announced).to_have_text("Queued 3rd")
    await stream.status("queued", position=11)
    await expect(status).to_have_text("Queued 11th")
    await stream.status("thinking", position=0, progress=0.4)
    await expect(status).to_have_text("Thinking 40 %")
    await expect(announced).to_have_text("Thinking")
    await expect(progress).to_have_attribute("value", "0.4")
    await stream.status("answering")
    await expect(status).to_have_text("Answering")
    await expect(progress).to_be_hidden()


async def test_markup_is_shown_literally(page: Page, service: Service) -> None:
    """Text of a model, of an error or of a model's name never becomes an element."""
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b>"
    await ask(page)
    stream = await service.next()
    await stream.text(evil)
    await expect(page.locator("#answer")).to_have_text(evil)
    await stream.failure({"error": {"message": evil, "code": "<i>code</i>"}})
    await expect(page.get_by_role("alert")).to_contain_text(evil)
    assert await page.locator("#exchange :is(img, script, b, i)").count() == 0
    await expect(page).to_have_title("Rill")


async def test_the_request_carries_what_the_form_says(page: Page, service: Service) -> None:
    """Prompt, reading speed, length and temperature reach the service; empty fields are left out."""
    await page.get_by_label("Off").check()
    await ask(page, "Count & name: 1+1=2?\nJa, ü 100 %")
    first = await service.next()
    assert first.asked["prompt"] == "Count & name: 1+1=2?\nJa, ü 100 %"
    assert {"prompt", "key"} == set(first.asked)
    await first.done()
    await expect(page.locator("#status")).to_have_text("Done")
    await page.get_by_label("Reading", exact=True).check()
    await page.get_by_text("Options").click()
    await page.get_by_label("Longest answer").fill("64")
    await page.get_by_label("Temperature").fill("0.7")
    await page.get_by_role("button", name="Send").click()
    second = await service.next()
    assert tuple(second.asked[name] for name in ("pace", "max_tokens", "temperature")) == (10, 64, 0.7)
    assert first.key != second.key


async def test_a_new_answer_replaces_the_last(page: Page, service: Service) -> None:
    """The second exchange starts from an empty page: no text, error or figure of the first remains."""
    await ask(page)
    first = await service.next()
    await first.text("the old answer")
    await first.failure({"message": "It broke.", "code": "engine_crash"})
    await expect(page.get_by_role("alert")).to_contain_text("It broke.")
    await ask(page)
    second = await service.next()
    await second.text("the new")
    await expect(page.locator("#answer")).to_have_text("the new")
    await expect(page.get_by_role("alert")).to_be_empty()


async def test_stop_cancels_the_stream(page: Page, service: Service) -> None:
    """Stop deletes the stream by the id in its events, keeps the text, and closes the connection."""
    await ask(page)
    stream = await service.next()
    await stream.text("Once upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await page.get_by_role("button", name="Stop").click()
    async with asyncio.timeout(PATIENCE_S):
        assert stream.stream == await service.deleted.get()
        await stream.left.wait()
    await expect(page.locator("#status")).to_have_text("Stopped")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert len(service.generations) == 1


async def test_escape_stops_too(page: Page, service: Service) -> None:
    """The keyboard reaches everything: Escape stops, wherever the focus is."""
    await ask(page)
    stream = await service.next()
    await stream.status("thinking")
    await expect(page.locator("#status")).to_have_text("Thinking")
    await page.keyboard.press("Escape")
    await expect(page.locator("#status")).to_have_text("Stopped")


async def test_figures_are_measured_and_then_counted(page: Page, service: Service) -> None:
    """Time to first token is shown with the first text; the final count is the service's, not the page's."""
    await ask(page)
    stream = await service.next()
    await expect(page.locator("#first-token")).to_have_text("–")
    await stream.text("one", "two", "three")
    await expect(page.locator("#tokens")).to_have_text("3")
    await expect(page.locator("#first-token")).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    await stream.done(tokens=7)
    await expect(page.locator("#tokens")).to_have_text("7")


async def test_an_answer_at_its_limit_says_so(page: Page, service: Service) -> None:
    """An answer that ended by itself is distinguishable from one that reached the token limit."""
    await ask(page)
    stream = await service.next()
    await stream.text("1, 2, 3,")
    await stream.done(finish_reason="length")
    await expect(page.locator("#status")).to_have_text("Done, at the length limit")


async def test_enter_sends_and_shift_enter_does_not(page: Page, service: Service) -> None:
    """Shift+Enter inserts a line break, Enter sends; nothing is sent for a blank prompt or during an answer."""
    prompt = page.get_by_role("textbox", name="Prompt")
    await prompt.press_sequentially("  ")
    await prompt.press("Enter")
    await prompt.fill("one")
    await prompt.press("Shift+Enter")
    await prompt.press_sequentially("two")
    await prompt.press("Enter")
    stream = await service.next()
    assert stream.asked["prompt"] == "one\ntwo"
    await prompt.press("Enter")
    await stream.text("answer")
    await expect(page.locator("#answer")).to_have_text("answer")
    assert len(service.generations) == 1


async def test_an_example_is_sent_at_a_click(page: Page, service: Service) -> None:
    """The examples fill the prompt and send it."""
    await page.get_by_role("button", name="Count from 1 to 20").click()
    stream = await service.next()
    assert stream.asked["prompt"] == "Count from 1 to 20"
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Count from 1 to 20")
