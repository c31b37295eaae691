"""Clients outside Python: Chromium's own EventSource, and npm's for Node. None where the program is missing."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import async_playwright

Ask = Callable[[str, dict[str, Any]], Awaitable[str]]

# A stream's text, assembled with nothing but EventSource; both clients run these lines. An EventSource closes for good
# when a cut leaves half a header, which looks like another kind of response: then a new one continues.
READ = """
(address) => new Promise((resolve, reject) => {
  let text = "", last = "";
  const end = (source, tell) => (event) => { source.close(); tell(event); };
  (function open() {
    const source = new EventSource(last ? `${address}&last_event_id=${last}` : address);
    source.onmessage = (event) => { last = event.lastEventId; text += JSON.parse(event.data).text; };
    source.addEventListener("status", (event) => { last = event.lastEventId; });
    source.addEventListener("done", end(source, () => resolve(text)));
    source.addEventListener("failure", end(source, (event) => reject(new Error(event.data))));
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(open, 500); };
  })();
})
"""
NODE = """
import { EventSource } from "eventsource";
const read = %s;
console.log(JSON.stringify(await read(process.argv[2])));
"""


def address(url: str, order: dict[str, Any]) -> str:
    """The address at which GET /stream starts this request or attaches to it."""
    return f"{url}/stream?" + urlencode({**order, "key": f"k{order['seed']}-{url.rpartition(':')[2]}"})


@asynccontextmanager
async def chromium(home: str) -> AsyncIterator[Ask | None]:
    """Reads in a page of `home`, a service that allows its pages to call other ports of this machine."""
    program = shutil.which("chromium")
    if program is None:
        yield None
        return
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        browser = await playwright.chromium.launch(executable_path=program, args=flags)
        page = await browser.new_page()
        await page.goto(home + "/healthz")

        async def ask(url: str, order: dict[str, Any]) -> str:
            text: str = await page.evaluate(READ, address(url, order))
            return text

        yield ask
        await browser.close()


@asynccontextmanager
async def node() -> AsyncIterator[Ask | None]:
    """Reads with npm's eventsource, in a Node process per stream."""
    npm, program = shutil.which("npm"), shutil.which("node")
    if npm is None or program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        installed = await asyncio.create_subprocess_exec(
            *(npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", folder, "eventsource@4"),
            stdout=asyncio.subprocess.DEVNULL,
            cwd=folder,
        )
        if await installed.wait() != 0:
            yield None
            return
        script = Path(folder) / "read.mjs"
        script.write_text(NODE % READ.strip())

        async def ask(url: str, order: dict[str, Any]) -> str:
            process = await asyncio.create_subprocess_exec(
                *(program, str(script), address(url, order)), stdout=asyncio.subprocess.PIPE
            )
            said, _ = await process.communicate()
            text: str = json.loads(said)
            return text

        yield ask
