"""A service that stays unreachable: how long the page tries, what it says, and that Retry loses or repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.web.reader import ask, load, passing
from tests.web.scripted import Connection, Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

DOWN = '{"error": {"message": "The service is down.", "code": "down"}}'


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def clock(page: Page, service: Service) -> None:
    """The test controls the page's time: waits of a minute pass at once."""
    await page.clock.install()
    await load(page, service.url)
    await expect(page.locator("#model")).to_have_text("starter-q8_0")


async def status(page: Page, text: str) -> None:
    await expect(page.locator("#status")).to_have_text(text)


@asynccontextmanager
async def given_up(page: Page) -> AsyncIterator[None]:
    """Within this context the page tries in vain, for at least 45 s of its time, and then says so."""
    since = await page.evaluate("() => performance.now()")
    yield
    await status(page, "Reconnecting…")
    await passing(page, status(page, "Failed"))
    assert await page.evaluate("() => performance.now()") - since >= 45_000


async def test_retry_continues_an_interrupted_answer(page: Page, service: Service) -> None:
    """The page stops trying, says so, keeps the text, and Retry continues the same stream at the next event."""
    await ask(page)
    first = await service.next()
    await first.text("Once", " upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await page.get_by_role("button", name="Stop").focus()
    async with given_up(page):
        await service.leave()
    await expect(page.get_by_role("alert")).to_contain_text("The connection was lost and has not come back.")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    await expect(page.get_by_role("button", name="Retry")).to_be_focused()
    await service.listen()
    await page.keyboard.press("Enter")
    second = await service.next()
    await expect(page.get_by_role("alert")).to_be_empty()
    await expect(page.get_by_role("button", name="Stop")).to_be_focused()
    assert (second.stream, second.last_event_id) == (first.stream, f"{first.stream}.1")
    await second.text(" a", " time")
    await second.done()
    await status(page, "Done")
    await expect(page.locator("#answer")).to_have_text("Once upon a time")
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()
    assert service.generations == [first.key]


async def test_a_service_that_is_away_before_the_prompt_is_sent(page: Page, service: Service) -> None:
    """The time limit is the same and the message another, as nothing was accepted: Retry sends the same prompt, as a
    new request."""
    await service.leave()
    async with given_up(page):
        await ask(page, "Hello")
    await expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    await service.listen()
    await page.get_by_role("button", name="Retry").click()
    stream = await service.next()
    assert stream.asked["prompt"] == "Hello"
    await stream.text("Hi")
    await stream.done()
    await status(page, "Done")
    await expect(page.locator("#answer")).to_have_text("Hi")


async def test_a_service_that_returns_in_time(page: Page, service: Service) -> None:
    """A short absence requires nothing of the reader: a later try succeeds."""
    await service.leave()
    await ask(page, "Hello")
    await status(page, "Reconnecting…")
    await service.listen()
    stream = await passing(page, service.next())
    await stream.text("Hi")
    await expect(page.locator("#answer")).to_have_text("Hi")


async def test_a_request_with_a_lost_answer_is_not_run_twice(page: Page, service: Service) -> None:
    """When a connection breaks at once it is unknown whether the request was accepted: its key makes a repeat
    attach."""
    await ask(page, "Hello")
    first = await service.next()
    first.cut()  # accepted, and the answer's headers never came
    second = await passing(page, service.next())
    assert (first.asked, first.stream) == (second.asked, second.stream)
    await second.text("Hi")
    await expect(page.locator("#answer")).to_have_text("Hi")
    assert len(service.generations) == 1


@pytest.mark.parametrize("code", [502, 504])
async def test_a_proxy_of_an_unreachable_service(page: Page, service: Service, code: int) -> None:
    """A proxy's 502 or 504 counts as an absence; when it lasts, its message is shown."""
    await ask(page)
    (await service.next()).refuse(code, body=DOWN)

    async def refuse(connection: Connection) -> None:
        connection.refuse(code, body=DOWN)

    await _always(page, service, refuse)
    await expect(page.get_by_role("alert")).to_contain_text("The service is down.")
    await expect(page.get_by_role("button", name="Retry")).to_be_visible()


async def test_an_empty_200_counts_as_an_absence(page: Page, service: Service) -> None:
    """An empty 200, which tells an EventSource to reconnect, does not make the page try for ever."""
    await ask(page)
    first = await service.next()
    await first.text("Once")
    await status(page, "Answering")
    first.cut()

    async def later(connection: Connection) -> None:
        await connection.open()
        connection.finished.set()

    await _always(page, service, later)
    await expect(page.get_by_role("alert")).to_contain_text("connection_lost")


async def test_a_service_that_loads_after_its_absence(page: Page, service: Service) -> None:
    """A 503 right after a restart is part of the absence, also while resuming a stream."""
    await service.leave()
    await ask(page)
    await status(page, "Reconnecting…")
    await service.listen()
    (await passing(page, service.next())).refuse(503)
    stream = await passing(page, service.next())
    await stream.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    stream.cut()
    (await passing(page, service.next())).refuse(503)
    again = await passing(page, service.next())
    await again.text(" more")
    await expect(page.locator("#answer")).to_have_text("Once more")


async def test_a_connection_that_only_seems_open(page: Page, service: Service) -> None:
    """A connection that brings nothing, not even heartbeats, for a minute is replaced by another, and nothing is
    lost."""
    await ask(page)
    first = await service.next()
    await first.text("Once")
    await status(page, "Answering")
    second = await passing(page, service.next())
    assert second.last_event_id == f"{first.stream}.0"
    await second.text(" more")
    await expect(page.locator("#answer")).to_have_text("Once more")


async def test_retry_is_not_offered_again_while_it_is_tried(page: Page, service: Service) -> None:
    """A retry has the same time limit as the first try, and a new prompt replaces both."""
    await service.leave()
    async with given_up(page):
        await ask(page)
    async with given_up(page):
        await page.get_by_role("button", name="Retry").click()
        await expect(page.get_by_role("button", name="Retry")).to_be_hidden()
    await service.listen()
    await ask(page, "Another")
    assert (await service.next()).asked["prompt"] == "Another"
    await expect(page.get_by_role("button", name="Retry")).to_be_hidden()
    await expect(page.get_by_role("alert")).to_be_empty()


async def _always(page: Page, service: Service, answer: Callable[[Connection], Awaitable[None]]) -> None:
    """Answers every try this way until the page gives up."""
    failed = asyncio.ensure_future(status(page, "Failed"))
    while not failed.done():
        if service.connected.empty():
            await page.clock.fast_forward(250)
        else:
            await answer(service.connected.get_nowait())
    await failed
