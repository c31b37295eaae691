"""Every refusal of the service, in words a reader understands."""

from __future__ import annotations

import asyncio
import json

import pytest
from playwright.async_api import Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask
from tests.web.scripted import Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

CRASH = {"message": "The engine stopped; it is being restarted.", "type": "server_error", "code": "engine_crash"}
FULL = {"message": "The queue is full.", "type": "rate_limit_error", "code": "queue_full", "param": None}


@pytest.mark.parametrize("data", [{"error": CRASH}, CRASH], ids=["nested", "flat"])
async def test_a_failure_is_told_in_its_own_words(page: Page, service: Service, data: dict[str, object]) -> None:
    """A failure event ends the stream: its message and code are shown below the received text."""
    await ask(page)
    stream = await service.next()
    await stream.text("Once upon")
    await stream.failure(data)
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.get_by_role("alert")).to_contain_text("The engine stopped; it is being restarted.")
    await expect(page.get_by_role("alert")).to_contain_text("engine_crash")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()
    assert len(service.generations) == 1


async def test_a_full_queue_says_when_to_come_back(page: Page, service: Service) -> None:
    """The service's message, its wait, and a button that sends the same request: its key keeps it one generation."""
    await ask(page)
    refused = await service.next()
    refused.refuse(429, body=json.dumps({"error": FULL}), retry_after="7")
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.get_by_role("alert")).to_contain_text("The queue is full. Try again in 7 s.")
    await expect(page.get_by_role("alert")).to_contain_text("queue_full")
    assert service.connected.empty()
    await page.get_by_role("button", name="Retry").click()
    stream = await service.next()
    await stream.text("here it is")
    await stream.done()
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("here it is")
    await expect(page.get_by_role("alert")).to_be_empty()
    assert refused.asked == stream.asked


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "Too many requests at once from here."), (503, "The service is busy just now."), (418, "refused")],
)
async def test_a_refusal_that_is_not_the_services_own(page: Page, service: Service, status: int, words: str) -> None:
    """A proxy's refusal is HTML without our error body: the page has a message for its status."""
    await ask(page)
    (await service.next()).refuse(status, body="<html><h1>no</h1></html>")
    await expect(page.get_by_role("alert")).to_contain_text(words)
    await expect(page.get_by_role("alert")).to_contain_text(f"http_{status}")


async def test_a_refusal_that_asking_again_cannot_change(page: Page, service: Service) -> None:
    """A fault of the request itself is shown without a button, as a retry would only be refused again."""
    error = {"message": "The prompt has 9000 tokens.", "code": "context_length_exceeded"}
    await ask(page)
    (await service.next()).refuse(400, body=json.dumps({"error": error}))
    await expect(page.get_by_role("alert")).to_contain_text("The prompt has 9000 tokens.")
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()


async def test_a_prompt_that_fits_no_address(page: Page, service: Service) -> None:
    """A prompt is sent as a body, however long, with all fields of the form, and is in no address."""
    await page.get_by_text("Options").click()
    await page.get_by_label("Longest answer").fill("64")
    await page.get_by_label("Temperature").fill("0.5")
    await ask(page, "ü" * 12000)
    stream = await service.next()
    expected = {"prompt": "ü" * 12000, "key": stream.key, "pace": 25, "max_tokens": 64, "temperature": 0.5}
    assert expected == stream.asked
    await stream.text("short")
    await expect(page.locator("#answer")).to_have_text("short")
    stream.cut()
    again = await service.next()
    assert again.asked == {"key": stream.key, "pace": "25"}
    await again.text(" answer")
    await again.done()
    await expect(page.locator("#answer")).to_have_text("short answer")
    assert service.generations == [stream.key]
    assert all("%C3%BC" not in address and "ü" not in address for address in service.addresses)


async def test_stop_before_the_first_event(page: Page, service: Service) -> None:
    """A stream is known by its id at once: Stop cancels it before its first event."""
    await ask(page)
    stream = await service.next()
    await stream.open()
    await page.wait_for_function("name => sessionStorage.getItem('rill.exchange').includes(name)", arg=stream.stream)
    await page.get_by_role("button", name="Stop").click()
    async with asyncio.timeout(PATIENCE_S):
        assert stream.stream == await service.deleted.get()
        await stream.left.wait()


async def test_stop_before_the_stream_has_a_name(page: Page, service: Service) -> None:
    """Stop while the request is on its way: its stream is cancelled as soon as its id is known, and never read."""
    await ask(page)
    stream = await service.next()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#status")).to_have_text("Stopped")
    await stream.open()
    async with asyncio.timeout(PATIENCE_S):
        assert await service.deleted.get() == "stream0"
        await stream.left.wait()
    assert service.connected.empty()


async def test_a_lost_stream_says_so(page: Page, service: Service) -> None:
    """The failure that answers a resume of a forgotten stream has no stream's id, and is explained."""
    await ask(page)
    first = await service.next()
    await first.text("half an ans")
    await expect(page.locator("#answer")).to_have_text("half an ans")
    first.cut()
    second = await service.next()
    second.stream = "lost"
    await second.failure({"error": {"message": "This stream is not known here any more.", "code": "stream_lost"}})
    await expect(page.get_by_role("alert")).to_contain_text("The service does not have this answer any more.")
    await expect(page.get_by_role("alert")).to_contain_text("stream_lost")
    await expect(page.locator("#answer")).to_have_text("half an ans")
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()


async def test_an_event_that_is_not_json(page: Page, service: Service) -> None:
    """A malformed event ends in an error on the page, not only in the console."""
    await ask(page)
    stream = await service.next()
    await stream.text("fine")
    await stream.response.write(f'id: {stream.stream}.1\ndata: {{"text":\n\n'.encode())
    await expect(page.get_by_role("alert")).to_contain_text("bad_event")
    async with asyncio.timeout(PATIENCE_S):
        await stream.left.wait()
