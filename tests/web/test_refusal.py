"""Every way in which the service says no, in words a reader understands."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from .reader import ask
from .scripted import Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CRASH = {"message": "The engine stopped; it is being restarted.", "type": "server_error", "code": "engine_crash"}


@pytest.mark.parametrize("data", [{"error": CRASH}, CRASH], ids=["nested", "flat"])
async def test_a_failure_is_told_in_its_own_words(page: Page, service: Service, data: dict[str, object]) -> None:
    """A failure event ends the stream: its message and code are shown below the text that had come."""
    await ask(page)
    stream = await service.next()
    await stream.text("Once upon")
    await stream.failure(data)
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.get_by_role("alert")).to_contain_text("The engine stopped; it is being restarted.")
    await expect(page.get_by_role("alert")).to_contain_text("engine_crash")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert len(service.generations) == 1


@pytest.mark.parametrize("status", [400, 429, 502])
async def test_a_refused_request_is_readable(page: Page, service: Service, status: int) -> None:
    """An EventSource hides why it was refused; the page says what it can and does not ask a second time."""
    await ask(page)
    (await service.next()).refuse(status)
    await expect(page.get_by_role("alert")).to_contain_text("The service refused this request; it may be busy.")
    await expect(page.locator("#status")).to_have_text("Failed")
    assert service.connected.empty()


async def test_a_loading_service_says_so(page: Page, service: Service) -> None:
    """While the engine loads or drains, the refusal names that state instead of guessing."""
    service.ready = {"status": "loading"}
    await ask(page)
    (await service.next()).refuse(503)
    await expect(page.get_by_role("alert")).to_contain_text("The service is not ready yet (loading).")


async def test_a_prompt_that_fits_no_address(page: Page, service: Service) -> None:
    """A prompt too long for a URL is refused on the page with the figures, before anything is sent."""
    await ask(page, "ü" * 1200)
    await expect(page.get_by_role("alert")).to_contain_text("too long for this page: 7.1 KB where 6 KB fit")
    assert service.generations == []


async def test_an_event_that_is_not_json(page: Page, service: Service) -> None:
    """A garbled event ends in an error on the page, not in a silent console."""
    await ask(page)
    stream = await service.next()
    await stream.text("fine")
    await stream.response.write(f'id: {stream.stream}.1\ndata: {{"text":\n\n'.encode())
    await expect(page.get_by_role("alert")).to_contain_text("bad_event")
    async with asyncio.timeout(10):
        await stream.left.wait()
