"""A service that requires an API key: where the key is entered, where it is sent, and where it never is."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask, load, options
from tests.web.scripted import Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

KEY = "sk-a/very+secret=key"


def field(page: Page) -> Locator:
    return page.get_by_label("API key")


@pytest.fixture
def locked(service: Service) -> Service:
    service.api_key = KEY
    return service


async def test_without_a_key_the_field_appears(page: Page, locked: Service) -> None:
    """A 401 shows the field, with an explanation and the focus; Enter in it sends the same request again."""
    await ask(page, "Hello")
    await expect(page.get_by_role("alert")).to_contain_text("This service asks for an API key")
    await expect(page.get_by_role("alert")).to_contain_text("invalid_api_key")
    await expect(field(page)).to_be_focused()
    await expect(field(page)).to_have_attribute("aria-invalid", "true")
    await page.keyboard.type(KEY)
    await page.keyboard.press("Enter")
    stream = await locked.next()
    await stream.text("Hi")
    await stream.done()
    await expect(page.locator("#answer")).to_have_text("Hi")
    await expect(page.get_by_role("alert")).to_be_empty()
    await expect(field(page)).not_to_have_attribute("aria-invalid", "true")
    assert stream.asked["prompt"] == "Hello"
    await expect(page.locator("#model")).to_have_text("starter-q8_0")


async def test_a_visitor_is_shown_the_field_at_once(page: Page, locked: Service) -> None:
    """Where a key is required its field is visible before anything is sent, and the prompt keeps the focus."""
    await load(page)
    await expect(field(page)).to_be_visible()
    await expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_a_wrong_key_is_distinguished_from_a_missing_one(page: Page, locked: Service) -> None:
    """After a mistyped key the page says so, selects it to be typed again, and continues by Retry."""
    await options(page)
    await field(page).fill("sk-wrong")
    await ask(page)
    await expect(page.get_by_role("alert")).to_contain_text("The service does not know this API key")
    await expect(field(page)).to_be_focused()
    await page.keyboard.type(KEY)
    await page.get_by_role("button", name="Retry").click()
    stream = await locked.next()
    await stream.done()
    await expect(page.locator("#status")).to_have_text("Done")


async def test_the_key_is_in_the_tab_alone(page: Page, locked: Service) -> None:
    """It survives a reload, no other tab has it, and it is never in an address or in lasting storage."""
    await options(page)
    await field(page).fill(KEY)
    await ask(page)
    await (await locked.next()).done()
    await expect(page.locator("#status")).to_have_text("Done")
    await load(page)
    await expect(field(page)).to_have_value(KEY)
    await expect(page.locator("#model")).to_have_text("starter-q8_0")
    assert "secret" not in await page.evaluate("() => JSON.stringify(localStorage) + document.cookie + location")
    assert not [address for address in locked.addresses if "secret" in address]
    other = await page.context.new_page()
    await other.goto(locked.url)
    await expect(field(other)).to_have_value("")


async def test_a_form_sent_without_script_has_no_key(page: Page, locked: Service) -> None:
    """The field has no name: even a form that the browser sends by itself leaves the key out of the address."""
    await options(page)
    await field(page).fill(KEY)
    await page.locator("#composer").evaluate("(form) => form.submit()")
    await page.wait_for_url("**/?*")
    assert not [address for address in locked.addresses if "secret" in address]


async def test_resume_and_stop_carry_the_key(page: Page, locked: Service) -> None:
    """If every route requires the key, it is sent to resume after a cut and with Stop."""
    await options(page)
    await field(page).fill(f" {KEY} ")
    await ask(page)
    first = await locked.next()
    await first.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    first.cut()
    second = await locked.next()
    await second.text(" upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await page.get_by_role("button", name="Stop").click()
    async with asyncio.timeout(PATIENCE_S):
        assert first.stream == await locked.deleted.get()


async def test_a_key_that_is_changed_under_way(page: Page, locked: Service) -> None:
    """A resume that is answered 401 asks for the key, and with it the same answer continues where it was
    interrupted."""
    await options(page)
    await field(page).fill(KEY)
    await ask(page)
    first = await locked.next()
    await first.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    locked.api_key = "another"
    first.cut()
    await expect(field(page)).to_be_focused()
    await page.keyboard.type("another")
    await page.keyboard.press("Enter")
    second = await locked.next()
    assert (second.stream, second.last_event_id) == (first.stream, f"{first.stream}.0")
    await second.text(" more")
    await second.done()
    await expect(page.locator("#answer")).to_have_text("Once more")
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"))


async def test_another_prompt_after_a_refusal_is_a_new_request(page: Page, locked: Service) -> None:
    """A reader that changes the prompt together with the key gets an answer to that prompt."""
    await ask(page, "old")
    await expect(field(page)).to_be_focused()
    await page.keyboard.type(KEY)
    await ask(page, "new")
    assert (await locked.next()).asked["prompt"] == "new"


async def test_a_key_of_any_characters(page: Page, service: Service) -> None:
    """A key that is not ASCII is sent as UTF-8, as the service decodes it."""
    service.api_key = "ключ-🦊"
    await options(page)
    await field(page).fill("ключ-🦊")
    await ask(page)
    await (await service.next()).done()
    await expect(page.locator("#status")).to_have_text("Done")
