"""Every way in which the service says no, in words a reader understands."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

from tests.patience import PATIENCE_S

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


async def test_a_full_queue_says_when_to_come_back(page: Page, service: Service) -> None:
    """An EventSource hides why it was refused; the page asks by POST, with the same key, and shows the answer."""
    error = {"message": "The queue is full.", "type": "rate_limit_error", "code": "queue_full", "param": None}
    service.refusal = web.json_response({"error": error}, status=429, headers={"Retry-After": "7"})
    await ask(page)
    refused = await service.next()
    refused.refuse(429)
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.get_by_role("alert")).to_contain_text("The queue is full. Try again in 7 s.")
    await expect(page.get_by_role("alert")).to_contain_text("queue_full")
    assert service.generations == [refused.key] == [body["key"] for body in service.posted]
    assert service.connected.empty()


@pytest.mark.parametrize(
    ("status", "words"),
    [(429, "Too many requests at once from here."), (502, "The service is not running just now."), (418, "refused")],
)
async def test_a_refusal_that_is_not_the_services_own(page: Page, service: Service, status: int, words: str) -> None:
    """A proxy's refusal is HTML without our error body: the page finds words for its status."""
    service.refusal = web.Response(status=status, text="<html><h1>no</h1></html>", content_type="text/html")
    await ask(page)
    (await service.next()).refuse(status)
    await expect(page.get_by_role("alert")).to_contain_text(words)
    await expect(page.get_by_role("alert")).to_contain_text(f"http_{status}")


async def test_a_service_that_is_gone(page: Page, service: Service) -> None:
    """Where there is no answer at all the page says that, and does not blame the request."""
    await page.route("**/v1/streams", lambda route: route.abort())
    await ask(page)
    (await service.next()).refuse(502)
    await expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")


async def test_a_refusal_that_has_passed(page: Page, service: Service) -> None:
    """When the POST finds a place that the GET did not, its answer starts; the key keeps it one generation."""
    await ask(page)
    refused = await service.next()
    refused.refuse(502)
    stream = await service.next()
    await stream.text("here it is")
    await stream.done()
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("here it is")
    assert service.generations == [refused.key] == [stream.key]


async def test_a_prompt_that_fits_no_address(page: Page, service: Service) -> None:
    """A prompt too long for a URL goes by POST, with all that the form says, and streams like any other."""
    await page.get_by_text("Options").click()
    await page.get_by_label("Longest answer").fill("64")
    await page.get_by_label("Temperature").fill("0.5")
    await ask(page, "ü" * 1200)
    stream = await service.next()
    assert service.posted == [{"prompt": "ü" * 1200, "key": stream.key, "max_tokens": 64, "temperature": 0.5}]
    assert dict(stream.query) == {"pace": "25"}
    await stream.text("short")
    await expect(page.locator("#answer")).to_have_text("short")
    stream.cut()
    again = await service.next()
    await again.text(" answer")
    await again.done()
    await expect(page.locator("#answer")).to_have_text("short answer")
    assert service.generations == [stream.key]


async def test_stop_before_the_first_event(page: Page, service: Service) -> None:
    """A stream that was made by POST is known by its id at once: Stop cancels it before it has said anything."""
    await ask(page, "ü" * 1200)
    stream = await service.next()
    await stream.open()
    await page.get_by_role("button", name="Stop").click()
    async with asyncio.timeout(PATIENCE_S):
        assert stream.stream == await service.deleted.get()
        await stream.left.wait()


async def test_stop_before_the_stream_has_a_name(page: Page, service: Service) -> None:
    """Stop while the POST is on its way: what it makes is cancelled as soon as its id is known, and never read."""
    service.answering.clear()
    await ask(page, "ü" * 1200)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#status")).to_have_text("Stopped")
    service.answering.set()
    async with asyncio.timeout(PATIENCE_S):
        assert await service.deleted.get() == "stream0"
    assert service.connected.empty()


async def test_a_lost_stream_says_so(page: Page, service: Service) -> None:
    """The failure that answers a resume of a forgotten stream has an id of no stream, and is shown all the same."""
    await ask(page)
    first = await service.next()
    await first.text("half an ans")
    await expect(page.locator("#answer")).to_have_text("half an ans")
    first.cut()
    second = await service.next()
    second.stream = "lost"
    await second.failure({"error": {"message": "This stream is not known here any more.", "code": "stream_lost"}})
    await expect(page.get_by_role("alert")).to_contain_text("This stream is not known here any more.")
    await expect(page.locator("#answer")).to_have_text("half an ans")


async def test_an_event_that_is_not_json(page: Page, service: Service) -> None:
    """A garbled event ends in an error on the page, not in a silent console."""
    await ask(page)
    stream = await service.next()
    await stream.text("fine")
    await stream.response.write(f'id: {stream.stream}.1\ndata: {{"text":\n\n'.encode())
    await expect(page.get_by_role("alert")).to_contain_text("bad_event")
    async with asyncio.timeout(PATIENCE_S):
        await stream.left.wait()
