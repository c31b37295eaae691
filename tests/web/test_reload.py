"""A reloaded tab: its prompt and its answer are there, and the answer continues while its stream exists."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask, load, options
from tests.web.scripted import Connection, Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

# A tab that is killed gets no event, and stores nothing.
KILLED = """
  for (const name of ["pagehide", "visibilitychange"])
    addEventListener(name, (event) => event.stopImmediatePropagation(), { capture: true });
"""


async def begun(page: Page, service: Service) -> Connection:
    """An answer of which a part is on the page."""
    await ask(page, "Tell me a story")
    stream = await service.next()
    await stream.text("Once", " upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    return stream


async def test_an_answer_continues_after_a_reload(page: Page, service: Service) -> None:
    """Prompt and text are there at once, before the service has sent anything, and the rest is appended."""
    first = await begun(page, service)
    await load(page)
    second = await service.next()
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Tell me a story")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.locator("#tokens")).to_have_text("2")
    await expect(page.locator("#first-token")).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    assert (second.stream, second.key, second.last_event_id) == (first.stream, first.key, f"{first.stream}.1")
    await second.text(" a", " time")
    await second.done(tokens=4)
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("Once upon a time")
    await expect(page.locator("#tokens")).to_have_text("4")
    assert service.generations == [first.key]


async def test_a_tab_that_was_killed_reads_from_the_beginning(page: Page, service: Service) -> None:
    """Without the old page's last state the new one reads the whole stream again."""
    await page.add_init_script(KILLED)
    await load(page)
    first = await begun(page, service)
    await load(page)
    second = await service.next()
    assert (second.stream, second.last_event_id) == (first.stream, None)
    for number, text in enumerate(["Once", " upon", " a time"]):
        await second.send("message", {"text": text}, number=number)
    await second.send("done", {"finish_reason": "stop"}, number=3)
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("Once upon a time")
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Tell me a story")


async def test_an_answer_that_had_ended_is_still_there(page: Page, service: Service) -> None:
    """A complete answer is not requested again: text, figures and end are shown, however old it is."""
    stream = await begun(page, service)
    await stream.done(tokens=7)
    await expect(page.locator("#status")).to_have_text("Done")
    await load(page)
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.locator("#tokens")).to_have_text("7")
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Tell me a story")
    await ask(page, "Another")
    assert (await service.next()).asked["prompt"] == "Another"
    assert service.connected.empty()


async def test_a_stream_that_ended_between_two_loads(page: Page, service: Service) -> None:
    """The stream ended between the old page and the new one: its rest and its end are read."""
    await begun(page, service)
    await load(page)
    second = await service.next()
    await second.text(" a time")
    await second.send("done", {"finish_reason": "cancelled"})
    await expect(page.locator("#status")).to_have_text("Stopped")
    await expect(page.locator("#answer")).to_have_text("Once upon a time")


@pytest.mark.parametrize(("status", "code"), [(404, "stream_not_found"), (410, "stream_lost")])
async def test_a_stream_that_is_gone(page: Page, service: Service, status: int, code: str) -> None:
    """The page says so, keeps the text, and accepts the next prompt."""
    await begun(page, service)
    await load(page)
    (await service.next()).refuse(status, body=f'{{"error": {{"message": "No.", "code": "{code}"}}}}')
    await expect(page.get_by_role("alert")).to_contain_text("The service does not have this answer any more.")
    await expect(page.get_by_role("alert")).to_contain_text(code)
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await page.get_by_role("button", name="Send").click()
    stream = await service.next()
    assert stream.asked["prompt"] == "Tell me a story"
    await stream.text("Anew")
    await expect(page.locator("#answer")).to_have_text("Anew")
    assert len(service.generations) == 2


async def test_a_wait_is_shown_again(page: Page, service: Service) -> None:
    """A waiting stream shows after a reload what it waits for, and Stop cancels it."""
    await ask(page)
    first = await service.next()
    await first.status("queued", position=2)
    await expect(page.locator("#status")).to_have_text("Queued 2nd")
    await load(page)
    second = await service.next()
    await second.open()
    await expect(page.locator("#status")).to_have_text("Queued 2nd")
    await page.get_by_role("button", name="Stop").click()
    async with asyncio.timeout(PATIENCE_S):
        assert first.stream == await service.deleted.get()
    await load(page)
    await expect(page.locator("#status")).to_have_text("Stopped")


async def test_a_request_that_was_on_its_way(page: Page, service: Service) -> None:
    """A reload before the service has answered sends the same request: its key keeps it one generation."""
    await ask(page, "Hello")
    first = await service.next()
    await load(page)
    second = await service.next()
    assert first.asked == second.asked
    await second.text("Hi")
    await expect(page.locator("#answer")).to_have_text("Hi")
    assert len(service.generations) == 1


async def test_a_request_that_was_on_its_way_long_ago(page: Page, service: Service) -> None:
    """After a time in which the service may have forgotten the key, sending it is left to the reader."""
    await page.clock.install()
    await load(page)
    await ask(page, "Hello")
    first = await service.next()
    await page.clock.fast_forward(31_000)
    await load(page)
    await expect(page.get_by_role("alert")).to_contain_text("The page was reloaded before the service had answered.")
    await expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Hello")
    assert service.connected.empty()
    await page.get_by_role("button", name="Retry").click()
    assert first.asked == (await service.next()).asked


async def test_a_failure_is_still_there(page: Page, service: Service) -> None:
    """The error and its remedy survive a reload: Retry continues the stream."""
    service.api_key = "first"
    await options(page)
    await page.get_by_label("API key").fill("first")
    first = await begun(page, service)
    service.api_key = "second"
    first.cut()
    await expect(page.get_by_role("alert")).to_contain_text("does not know this API key")
    await load(page)
    await expect(page.get_by_role("alert")).to_contain_text("does not know this API key")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.keyboard.type("second")
    await page.get_by_role("button", name="Retry").click()
    second = await service.next()
    assert (second.stream, second.last_event_id) == (first.stream, f"{first.stream}.1")


async def test_the_options_come_back_with_the_prompt(page: Page, service: Service) -> None:
    """The form has the prompt's options again."""
    await options(page)
    await page.get_by_label("Longest answer").fill("64")
    await page.get_by_label("Temperature").fill("0.7")
    await page.get_by_label("Relaxed").check()
    await begun(page, service)
    await load(page)
    await expect(page.get_by_label("Longest answer")).to_have_value("64")
    await expect(page.get_by_label("Temperature")).to_have_value("0.7")
    await expect(page.get_by_label("Relaxed")).to_be_checked()
    assert (await service.next()).asked["pace"] == "5"


async def test_another_tab_has_none_of_it(page: Page, service: Service) -> None:
    """Prompt and answer stay in their tab."""
    await begun(page, service)
    other = await page.context.new_page()
    await other.goto(service.url)
    await expect(other.locator("#exchange")).to_be_hidden()
    await expect(other.get_by_role("textbox", name="Prompt")).to_have_value("")
    assert await page.evaluate("() => JSON.stringify(localStorage)") == "{}"


async def test_a_browser_that_keeps_nothing(page: Page, service: Service) -> None:
    """Where storage is refused the page works as usual, but keeps nothing."""
    await page.add_init_script("""
      for (const name of ["localStorage", "sessionStorage"])
        Object.defineProperty(window, name, { get() { throw new DOMException("no", "SecurityError"); } });
    """)
    await load(page)
    stream = await begun(page, service)
    await stream.done()
    await expect(page.locator("#status")).to_have_text("Done")
    await load(page)
    await expect(page.locator("#exchange")).to_be_hidden()
