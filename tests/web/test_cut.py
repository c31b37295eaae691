"""A broken connection does not change the text on the page. Its end is not the end of the stream."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask
from tests.web.scripted import Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


async def test_a_cut_loses_and_repeats_nothing(page: Page, service: Service) -> None:
    """The page reconnects with the id of the last event it took, and the text continues from there."""
    await ask(page)
    first = await service.next()
    await first.text("Once", " upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")
    first.cut()
    second = await service.next()
    await expect(page.locator("#status")).to_have_text("Reconnecting…")
    assert (first.key, f"{first.stream}.1") == (second.key, second.last_event_id)
    await second.text(" a", " time")
    await expect(page.locator("#answer")).to_have_text("Once upon a time")
    await expect(page.locator("#status")).to_have_text("Answering")
    await second.done()
    await expect(page.locator("#status")).to_have_text("Done")
    assert [first.key] == service.generations


async def test_an_event_cut_in_half_is_read_again(page: Page, service: Service) -> None:
    """Half an event is not an event: its text is shown once, from the connection that brings all of it."""
    await ask(page)
    first = await service.next()
    await first.text("Once")
    await first.response.write(f'id: {first.stream}.1\ndata: {{"text": " up'.encode())
    await expect(page.locator("#answer")).to_have_text("Once")
    first.cut()
    second = await service.next()
    assert f"{first.stream}.0" == second.last_event_id
    await second.text(" upon")
    await expect(page.locator("#answer")).to_have_text("Once upon")


async def test_a_status_outlives_a_cut(page: Page, service: Service) -> None:
    """A connection that resumes and stays silent shows again what it was waiting for."""
    await ask(page)
    first = await service.next()
    await first.status("queued", position=2)
    await expect(page.locator("#status")).to_have_text("Queued 2nd")
    first.cut()
    await expect(page.locator("#status")).to_have_text("Reconnecting…")
    second = await service.next()
    await second.open()
    await expect(page.locator("#status")).to_have_text("Queued 2nd")


async def test_a_replay_is_not_shown_twice(page: Page, service: Service) -> None:
    """If a service resumes too early and repeats events, the page counts ids and repeats no text."""
    await ask(page)
    first = await service.next()
    await first.text("1,", " 2,")
    await expect(page.locator("#answer")).to_have_text("1, 2,")
    first.cut()
    second = await service.next()
    for number, text in enumerate(["1,", " 2,", " 3"]):
        await second.send("message", {"text": text}, number=number)
    await expect(page.locator("#answer")).to_have_text("1, 2, 3")


async def test_another_stream_is_never_mixed_in(page: Page, service: Service) -> None:
    """A connection that resumes with another stream's events ends in a failure; their text is not shown."""
    await ask(page)
    first = await service.next()
    await first.text("mine")
    await expect(page.locator("#answer")).to_have_text("mine")
    first.cut()
    second = await service.next()
    second.stream = "another"
    await second.text(" and theirs")
    await expect(page.locator("#status")).to_have_text("Failed")
    await expect(page.get_by_role("alert")).to_contain_text("stream_changed")
    await expect(page.locator("#answer")).to_have_text("mine")


async def test_a_refused_reconnection_is_tried_again(page: Page, service: Service) -> None:
    """A 502 during a reconnection is not the end: the page tries again and resumes."""
    await ask(page)
    first = await service.next()
    await first.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    first.cut()
    (await service.next()).refuse(502)
    third = await service.next()
    assert (first.key, f"{first.stream}.0") == (third.key, third.last_event_id)
    await third.text(" more")
    await expect(page.locator("#answer")).to_have_text("Once more")
    await third.done()
    await expect(page.locator("#status")).to_have_text("Done")


async def test_a_finished_stream_is_left_alone(page: Page, service: Service) -> None:
    """At done the page itself closes its connection, and opens no other."""
    await ask(page)
    first = await service.next()
    await first.text("all of it")
    await first.send("done", {"finish_reason": "stop"})
    await expect(page.locator("#status")).to_have_text("Done")
    async with asyncio.timeout(PATIENCE_S):
        await first.left.wait()  # the service has not ended the response; only the page can have
    await ask(page, "Something else")
    second = await service.next()
    assert second.last_event_id is None
    assert service.generations == [first.key, second.key]
    assert service.connected.empty()


async def test_nothing_more_to_read(page: Page, service: Service) -> None:
    """A resume that is answered 204 is past the stream's end: there is nothing to try again."""
    await ask(page)
    first = await service.next()
    await first.text("all of it")
    await expect(page.locator("#answer")).to_have_text("all of it")
    first.cut()
    (await service.next()).refuse(204, body="")
    await expect(page.locator("#status")).to_have_text("Done")
    await expect(page.locator("#answer")).to_have_text("all of it")


async def test_stop_while_reconnecting(page: Page, service: Service) -> None:
    """Stop works while reconnecting, too: the stream is cancelled by its id and no further connection is tried."""
    await ask(page)
    first = await service.next()
    await first.text("Once")
    await expect(page.locator("#answer")).to_have_text("Once")
    first.cut()
    second = await service.next()
    await expect(page.locator("#status")).to_have_text("Reconnecting…")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#status")).to_have_text("Stopped")
    async with asyncio.timeout(PATIENCE_S):
        assert first.stream == await service.deleted.get()
        await second.left.wait()
