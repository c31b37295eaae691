"""A backend between your users and Rill: it relays answers as plain text, each token exactly once.

pip install aiohttp
python examples/relay.py [http://127.0.0.1:8000 [8001]]
curl -N http://127.0.0.1:8001/ask -d '{"prompt": "Tell me a story about a fox"}'

RILL_API_KEY is its key at a Rill that asks for one; its users need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

FIELDS = ("prompt", "system", "max_tokens", "temperature", "seed", "pace")  # what users may choose
MAX_BREAKS = 15  # in a row, with pauses from 0.1 s to 5 s between them: most of a minute
SILENCE_S = 60  # Rill sends a heartbeat every 15 s, so that a connection with nothing for so long is dead
RILL = web.AppKey("rill", aiohttp.ClientSession)


class Failed(Exception):
    """No answer, or no more of it: a status for the user, and Rill's error body."""

    def __init__(self, status: int, body: str, retry_after: str | None = None) -> None:
        super().__init__(body)
        self.status, self.body = status, body
        self.headers = {"Retry-After": retry_after} if retry_after else {}


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, Any]]:
    """Id, name and data of each event. One that breaks off before its empty line is dropped: it is sent again."""
    id, name, data = "", "message", ""
    async for line in response.content:
        if not line.endswith(b"\n"):
            return
        field, _, value = line.decode().removesuffix("\n").partition(": ")
        if line == b"\n":
            if data:
                yield id, name, json.loads(data)
            name, data = "message", ""
        elif field == "id":
            id = value
        elif field == "event":
            name = value
        elif field == "data":
            data = value


async def answer(rill: aiohttp.ClientSession, asked: dict[str, Any]) -> AsyncGenerator[str, None]:
    """The texts of one answer, over as many connections as it takes."""
    body = asked | {"key": str(uuid.uuid4())}  # the same request with the same key never generates twice
    pace = {"pace": str(asked["pace"])} if asked.get("pace") else {}  # the connection's, not the stream's
    last, ended, n_breaks = "", False, 0  # last: the id of the last event that was relayed
    try:
        while True:
            if last:
                address, headers = f"/v1/streams/{stream_of(last)}", {"Last-Event-ID": last}
                asking = rill.get(address, params=pace, headers=headers)
            else:
                asking = rill.post("/stream", json=body)
            with contextlib.suppress(aiohttp.ClientError):  # what a user's own connection raises does not come here
                async with asking as response:
                    if response.status != 200 and (not last or response.status < 500):
                        raise Failed(response.status, await response.text(), response.headers.get("Retry-After"))
                    if response.status == 200:
                        async for id, name, data in events(response):
                            ended = name in ("done", "failure")
                            if name == "failure":
                                raise Failed(502, json.dumps(data))
                            if name == "message":
                                yield data["text"]
                            last, n_breaks = id, 0
                            if ended:
                                return
            n_breaks += 1
            if n_breaks > MAX_BREAKS:
                raise Failed(502, '{"error": {"message": "Rill does not answer."}}')
            await asyncio.sleep(min(0.05 * 2**n_breaks, 5))
    finally:
        if last and not ended:  # the user has left: without this the answer would be written to nobody for a while
            with contextlib.suppress(aiohttp.ClientError):
                await rill.delete(f"/v1/streams/{stream_of(last)}")


def stream_of(event_id: str) -> str:
    return event_id.partition(".")[0]


async def ask(request: web.Request) -> web.StreamResponse:
    """POST /ask with {"prompt": …}, answered as plain text."""
    try:
        asked = {name: value for name, value in (await request.json()).items() if name in FIELDS}
    except (ValueError, AttributeError):
        raise web.HTTPBadRequest(text="The body must be a JSON object.\n") from None
    reply = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", "X-Accel-Buffering": "no"})
    try:
        async with contextlib.aclosing(answer(request.app[RILL], asked)) as texts:
            async for text in texts:
                if not reply.prepared:  # not before: until the first text Rill's status can be the user's
                    await reply.prepare(request)
                await reply.write(text.encode())
    except Failed as failed:
        if not reply.prepared:
            return web.Response(
                status=failed.status, text=failed.body, content_type="application/json", headers=failed.headers
            )
        if request.transport is not None:
            request.transport.close()  # plain text has no other way to say that it is not whole
        return reply
    if not reply.prepared:
        await reply.prepare(request)
    return reply


async def session(app: web.Application) -> AsyncIterator[None]:
    """One for all users. No bound on its connections: each answer that is being written has one."""
    async with aiohttp.ClientSession(
        sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000",
        headers={"Authorization": f"Bearer {os.environ.get('RILL_API_KEY', 'any')}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_S),
    ) as app[RILL]:
        yield


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/ask", ask)
    app.cleanup_ctx.append(session)
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8001
    web.run_app(app, host="127.0.0.1", port=port, handler_cancellation=True)  # a user who leaves ends the answer
