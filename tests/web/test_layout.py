"""The page's layout and accessibility: phones, dark mode, keyboards, long answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.patience import PATIENCE_S
from tests.web.reader import ask, load, passing
from tests.web.scripted import Connection, Service

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

STORY = (
    "Once upon a time there was a small fox who lived beside a stream. Every morning the fox ran down to the water "
    "and listened.\n\nOne day the stream was quiet. “Where did your song go?” asked the fox. The stream said nothing, "
    "so the fox followed it up the hill, over the stones and under the old pine, until it found a heavy branch lying "
    "across the spring.\n\nThe fox pulled and pulled. At last the branch came free, and the water sang again."
)

# WCAG 2.2's formula, on the browser's computed colours; text of 16 px needs 4.5.
CONTRAST = """(element) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number)
      .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""

# The visible controls that overlap each other.
OVERLAPS = """(controls) => {
  const boxes = controls.filter((control) => control.checkVisibility())
    .map((control) => [control.textContent, control.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return boxes.flatMap(([name, a], i) =>
    boxes.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => [name, other]));
}"""


async def tell(stream: Connection, text: str) -> None:
    for word in text.split(" "):
        await stream.text(word + " ")


@asynccontextmanager
async def looking(browser: Browser, service: Service, scheme: str, width: int) -> AsyncIterator[Page]:
    """The page in these colours on a screen of this width."""
    async with await browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
    ) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        page = await context.new_page()
        await load(page, service.url)
        yield page


async def fits(page: Page, width: int) -> None:
    """Nothing overflows or overlaps, and all text has WCAG's contrast."""
    assert width >= await page.evaluate("() => document.documentElement.scrollWidth")
    assert await page.locator("button, summary, legend, .switch label, .more label").evaluate_all(OVERLAPS) == []
    for element in await page.locator("p, dt, dd, summary, legend, span, button, code, label").all():
        if await element.is_visible() and (await element.text_content() or "").strip():
            assert await element.evaluate(CONTRAST) >= 4.5, await element.text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1100])
async def test_light_and_dark_on_a_phone_and_a_desk(
    browser: Browser, service: Service, shots: Path | None, scheme: str, width: int
) -> None:
    """From 320 px on an answer fits the page in each of its phases, light and dark."""
    async with looking(browser, service, scheme, width) as page:
        await expect(page.locator("#model")).to_have_text("starter-q8_0")
        await shoot(page, shots, f"{scheme}-{width}-idle")
        await ask(page, "Tell me a story about a fox")
        stream = await service.next()
        await stream.status("thinking", progress=0.4)
        await expect(page.locator("#status")).to_have_text("Thinking 40 %")
        await shoot(page, shots, f"{scheme}-{width}-thinking")
        await tell(stream, STORY + " " + "w" * 200)
        await expect(page.locator("#answer")).to_contain_text("www")
        await shoot(page, shots, f"{scheme}-{width}-answering")
        await stream.failure({"message": "The engine stopped.", "code": "engine_crash"})
        await expect(page.get_by_role("alert")).to_contain_text("engine_crash")
        await page.get_by_text("Options").click()
        await shoot(page, shots, f"{scheme}-{width}-failed")
        await fits(page, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1100])
async def test_states_that_need_the_reader_fit_too(
    browser: Browser, service: Service, shots: Path | None, scheme: str, width: int
) -> None:
    """So do the key field, a lost connection, and a lost stream."""
    service.api_key = "sk-secret"
    async with looking(browser, service, scheme, width) as page:
        await expect(page.get_by_label("API key")).to_be_visible()
        await page.clock.install()
        await ask(page, "Tell me a story about a fox")
        await expect(page.get_by_label("API key")).to_be_focused()
        await shoot(page, shots, f"{scheme}-{width}-key")
        await expect(page.get_by_label("API key")).to_be_in_viewport(ratio=1)
        await expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)
        await fits(page, width)
        await page.keyboard.type("sk-secret")
        await page.keyboard.press("Enter")
        await tell(await service.next(), STORY)
        await expect(page.locator("#answer")).to_contain_text("sang again.")
        await service.leave()
        await expect(page.locator("#status")).to_have_text("Reconnecting…")
        await shoot(page, shots, f"{scheme}-{width}-reconnecting")
        await passing(page, expect(page.get_by_role("button", name="Retry")).to_be_visible())
        await expect(page.get_by_role("button", name="Retry")).to_be_in_viewport(ratio=1)
        await expect(page.get_by_role("alert")).to_be_in_viewport(ratio=1)
        await shoot(page, shots, f"{scheme}-{width}-lost")
        await fits(page, width)
        await service.listen()
        await page.get_by_role("button", name="Retry").click()
        await service.next()
        await load(page)
        (await service.next()).refuse(410)
        await expect(page.get_by_role("alert")).to_contain_text("http_410")
        await shoot(page, shots, f"{scheme}-{width}-gone")
        await fits(page, width)


async def shoot(page: Page, folder: Path | None, name: str) -> None:
    if folder is not None:
        await page.screenshot(path=folder / f"{name}.png")


async def test_no_field_makes_a_phone_zoom(page: Page, service: Service) -> None:
    """Phones zoom into a focused field of less than 16 px; none is smaller."""
    sizes = "(fields) => fields.map((field) => parseFloat(getComputedStyle(field).fontSize))"
    assert min(await page.locator("textarea, input").evaluate_all(sizes)) >= 16


async def test_the_page_follows_the_text_only_for_a_reader_at_its_end(page: Page, service: Service) -> None:
    """New text scrolls the page if the reader is at its end, and not if the reader has scrolled up."""
    at_end = "() => innerHeight + scrollY >= document.documentElement.scrollHeight - 2"
    await ask(page)
    stream = await service.next()
    await tell(stream, "\n\n".join([STORY] * 4) + "first")
    await expect(page.locator("#answer")).to_contain_text("first")
    assert await page.evaluate(at_end)
    assert await page.evaluate("() => scrollY") > 0
    await expect(page.get_by_role("button", name="Stop")).to_be_in_viewport()
    await page.evaluate("() => scrollTo(0, 100)")
    await tell(stream, STORY + "second")
    await expect(page.locator("#answer")).to_contain_text("second")
    assert await page.evaluate("() => scrollY") == 100


async def test_the_keyboard_is_enough(page: Page, service: Service) -> None:
    """Without a mouse a reader starts in the prompt, reaches Send and Stop, and never loses the focus."""
    await expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
    await page.keyboard.type("Hello")
    await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowLeft")
    await expect(page.get_by_label("Reading", exact=True)).to_be_checked()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    stream = await service.next()
    assert (stream.asked["prompt"], stream.asked["pace"]) == ("Hello", 10)
    await stream.text("Hi")
    await expect(page.get_by_role("button", name="Stop")).to_be_focused()
    await page.keyboard.press("Space")
    await expect(page.locator("#status")).to_have_text("Stopped")
    await expect(page.get_by_role("button", name="Send")).to_be_focused()


async def test_the_reading_speed_is_kept(page: Page, service: Service) -> None:
    """The reading speed is the reader's setting: it is the same after a reload."""
    await page.get_by_label("Relaxed").check()
    await load(page)
    await expect(page.get_by_label("Relaxed")).to_be_checked()


async def test_a_visitor_before_the_model(page: Page, service: Service) -> None:
    """A visitor that arrives while the model loads sees its name as soon as it is known."""
    service.loaded = False
    async with page.expect_response(lambda response: response.status == 503):
        await load(page)
    await expect(page.locator("#model")).to_be_hidden()
    service.loaded = True
    await expect(page.locator("#model")).to_have_text("starter-q8_0")


async def test_reduced_motion_is_respected(page: Page, service: Service) -> None:
    """With reduced motion nothing on the page moves but the text."""
    await page.emulate_media(reduced_motion="reduce")
    await ask(page)
    stream = await service.next()
    for phase in ("queued", "thinking", "answering"):
        await stream.status(phase)
        await expect(page.locator(f"body[data-phase={phase}]")).to_be_visible()
        assert await page.evaluate("() => document.getAnimations().length") == 0


async def test_a_flood_of_tokens_is_shown_whole(page: Page, service: Service) -> None:
    """Five thousand deltas at full speed are all shown at the end, in order."""
    await ask(page)
    stream = await service.next()
    await stream.text(*(f"{n} " for n in range(5000)))
    await stream.done(tokens=5000)
    await expect(page.locator("#status")).to_have_text("Done")
    assert "".join(f"{n} " for n in range(5000)) == await page.locator("#answer").text_content()
