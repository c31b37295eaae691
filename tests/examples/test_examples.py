"""Each example does what it demonstrates, also on a connection that breaks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import async_playwright, expect

from tests.e2e.conftest import FLAGS
from tests.e2e.wire import Wire
from tests.events import numbers, parse, text
from tests.patience import LIMITS, PATIENCE_S
from tests.programs import required
from tests.replicas import until
from tests.running import ROOT, Service, running
from tests.web.reader import load

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = ROOT / "examples"
PROMPT = "Tell me a story about a river"
CUTS = (10, 100, 200)  # after this many characters
NO_OPENAI = "npm's openai is not here: npm ci --prefix examples"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[str]:
    """The origin of a static server of examples/, different from the service's."""
    app = web.Application()
    app.router.add_static("/", EXAMPLES)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's stderr, a line per request."""
    return tmp_path_factory.mktemp("examples") / "log"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(site: str, log: Path) -> AsyncIterator[Service]:
    """Exact on a CPU: the same greedy or seeded request gets the same text."""
    async with running(log=log, kv_type="bf16", allowed_origins=site, **LIMITS) as service:
        yield service


@asynccontextmanager
async def started(*command: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with both outputs piped, terminated after use. Its output is unbuffered."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def run(*command: str) -> str:
    """A program's output, if it succeeds."""
    async with started(*command) as process, asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
        assert process.returncode == 0, (out + err).decode()
        return out.decode()


async def chat(service: Service) -> str:
    """What the examples of OpenAI's clients print: the answer as it arrives in one piece, and its usage."""
    body = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0}
    async with service.client.post("/v1/chat/completions", json=body) as response:
        answer = await response.json()
    usage = answer["usage"]
    said: str = answer["choices"][0]["message"]["content"]
    return f"{said}\n{usage['prompt_tokens']} tokens read, {usage['completion_tokens']} written\n"


# With the module's scope, so that a missing program is reported before the service is started.
@pytest.fixture(scope="module")
def curl() -> str:
    return required("curl")


@pytest.fixture(scope="module")
def node() -> str:
    """Node, if it finds npm's openai from the example's directory."""
    path = required("Node")
    command = [path, "--input-type=module", "--eval", 'import "openai"']
    if subprocess.run(command, cwd=EXAMPLES, capture_output=True).returncode != 0:
        pytest.skip(NO_OPENAI)
    return path


@pytest.fixture(scope="module")
def chromium() -> str:
    return required("Chromium")


@pytest.mark.e2e
async def test_curl(curl: str, service: Service) -> None:
    """The cut stream and what is read after its last complete event are all events of the stream, each once."""
    said = await run("sh", "examples/curl.sh", service.url)
    first, rest, both, last = re.split(r"^== .*\n", said, flags=re.MULTILINE)[1:]
    events = parse(first.encode()) + parse(rest.encode())
    id = events[0].id.partition(".")[0]
    async with service.client.get(f"/v1/streams/{id}") as response:
        whole = parse(await response.read())
    assert [event.id for event in events] == [event.id for event in whole]
    assert numbers(events, id) == list(range(len(whole)))
    assert text(events) == text(whole) and text(parse(first.encode()))
    assert [event.name for event in events if event.name not in ("status", "message")] == ["done"]
    assert (both.count("\n"), last) == (1, "")


@pytest.mark.e2e
async def test_curl_without_a_service(curl: str) -> None:
    """If nothing listens the script says so, and fails."""
    async with started("sh", "examples/curl.sh", "http://127.0.0.1:1") as process:
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (1, "No stream came from http://127.0.0.1:1\n")


async def test_openai_python(service: Service) -> None:
    """The answer is printed in full, and then its usage."""
    assert await run(sys.executable, "examples/openai_client.py", service.url, PROMPT) == await chat(service)


@pytest.mark.e2e
async def test_openai_node(node: str, service: Service) -> None:
    """The answer is printed in full, and then its usage."""
    assert await run(node, "examples/openai_client.mjs", service.url, PROMPT) == await chat(service)


async def test_the_lock_file_names_no_registry() -> None:
    """npm's openai is pinned with its hash, and comes from whichever registry npm is set up for."""
    (package,) = (p for name, p in json.loads((EXAMPLES / "package-lock.json").read_text())["packages"].items() if name)
    assert package["integrity"].startswith("sha512-")
    assert "resolved" not in package


@asynccontextmanager
async def relaying(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of relay.py, which sends its requests to the Rill at this address."""
    async with started(sys.executable, "examples/relay.py", url.rstrip("/"), "0") as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            banner = await process.stdout.readuntil(b" =")
        (own,) = re.findall(r"http://127\.0\.0\.1:\d+", banner.decode())
        async with aiohttp.ClientSession(own, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as client:
            yield client


async def test_relay(service: Service) -> None:
    """The relay's user gets each token once, as it arrives, however often the relay's connection to Rill breaks."""
    order = {"prompt": PROMPT, "seed": 7, "max_tokens": 100}
    async with Wire(service.port) as wire, relaying(wire.url) as client:
        got, n_pieces = b"", 0
        cuts = list(CUTS)
        async with client.post("/ask", json=order | {"pace": 25}) as response:
            assert response.status == 200
            async for piece in response.content.iter_any():
                got, n_pieces = got + piece, n_pieces + 1
                if cuts and len(got) > cuts[0]:
                    cuts.pop(0)
                    wire.cut()
    assert (got.decode(), cuts) == (text(await service.whole(**order)), [])
    assert n_pieces > len(CUTS)


async def test_relay_while_rill_is_away(service: Service) -> None:
    """A Rill that refuses connections for a moment is only a pause for the relay's user."""
    order = {"prompt": PROMPT, "seed": 8, "max_tokens": 60}
    async with (
        Wire(service.port) as wire,
        relaying(wire.url) as client,
        client.post("/ask", json=order | {"pace": 25}) as response,
    ):
        got = await response.content.readany()
        await wire.close()
        await wire.open()
        got += await response.content.read()
    assert got.decode() == text(await service.whole(**order))


async def test_relay_passes_refusals_on(service: Service) -> None:
    """A refusal of Rill's is passed on with its status and message; a body that is not an object gets 400, too."""
    async with relaying(service.url) as client:
        async with client.post("/ask", json={"prompt": "hi", "temperature": -1}) as response:
            assert (response.status, (await response.json())["error"]["param"]) == (400, "temperature")
        async with client.post("/ask", data=b"[]") as response:
            assert response.status == 400


async def test_relay_cancels_an_answer_without_a_reader(service: Service, log: Path) -> None:
    """When its user leaves the relay cancels the answer, which has a key and would otherwise continue."""

    def cancelled() -> bool:
        return '"method":"DELETE"' in log.read_text()

    async with relaying(service.url) as client:
        response = await client.post("/ask", json={"prompt": PROMPT, "pace": 1})
        await response.content.readany()
        assert not cancelled()
        response.close()
        await until(cancelled)


@pytest.mark.e2e
async def test_page(chromium: str, site: str, service: Service) -> None:
    """A page of another origin shows the stream's state, and each token once, over connections that break."""
    asked: list[str] = []
    fields = "pace=25&seed=7&max_tokens=100&ignore_eos=true"
    async with Wire(service.port) as wire, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = await browser.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("request", lambda request: asked.append(request.url) if "/stream?" in request.url else None)
        await load(page, f"{site}/page.html?rill={wire.url.rstrip('/')}&{fields}")
        await page.evaluate(
            """() => {
                window.lines = [];
                const line = document.getElementById("status");
                new MutationObserver(() => lines.push(line.textContent)).observe(line, { childList: true });
            }"""
        )
        queued = await page.evaluate("words({ phase: 'queued', position: 3, eta_s: 4.1 })")  # no other stream here
        await page.get_by_label("Prompt").fill(PROMPT)
        await page.get_by_label("Prompt").press("Enter")
        for n in CUTS:
            await page.wait_for_function(f"document.getElementById('answer').textContent.length > {n}")
            wire.cut()
        await expect(page.get_by_role("status")).to_have_text("done: 100 tokens, length", timeout=1000 * PATIENCE_S)
        said = await page.locator("#answer").text_content()
        n_texts = await page.evaluate("document.getElementById('answer').childNodes.length")
        lines = await page.evaluate("lines")
        await browser.close()
    async with service.client.get(asked[0].removeprefix(wire.url.rstrip("/"))) as response:  # by its key
        whole = parse(await response.read())
    assert said == text(whole)
    assert n_texts == sum(event.name == "message" for event in whole)
    assert queued == "queued: place 3, about 5 s"
    assert lines[0] == "asking" and "thinking: 100 %" in lines and "answering" in lines


async def test_the_page_uses_readmes_function() -> None:
    """The function is README's, verbatim."""
    (function,) = re.findall(r"^```js\n(.*?)^read\(", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert function in (EXAMPLES / "page.html").read_text()
