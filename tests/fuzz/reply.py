"""The answer to a request: sent on its own connection, read within limits, and judged."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead

import orjson

from tests.fuzz.request import Request

FIRST_S = 30.0  # until an answer begins: a non-streamed one may take long
READ_S = 3.0  # from then on: longer answers are cut off, as streams may be endless
UNENDED_S = 0.2  # the wait after an incomplete request: the service waits for its rest
MOST = 256 << 10  # bytes read of an answer
COUNTS = {"n_prompt_tokens", "n_ctx"}  # of a prompt that is too long
REFUSALS = ("queue_full", "queue_timeout", "not_ready", "shutting_down")  # 429 and 503: not now


@dataclass(frozen=True, slots=True)
class Reply:
    """status 0: no answer; -1: an answer that is not HTTP. error: the `error` of its body, or of an event in it."""

    status: int
    body: bytes = b""
    error: object = None
    server: str = "rill"  # the Server header
    has_ended: bool = True  # by the service, not by this client

    @property
    def code(self) -> str:
        return str(self.error.get("code")) if isinstance(self.error, dict) else ""


async def send(port: int, request: Request) -> Reply:
    """Sends the request, and reads until the service closes the connection, or a limit is reached."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MOST)
    raw, has_ended = bytearray(), False
    try:
        writer.write(request.encode())
        async with asyncio.timeout(FIRST_S if request.is_whole else UNENDED_S) as patience:
            while len(raw) < MOST and not has_ended:
                chunk = await reader.read(MOST)
                if chunk and not raw:
                    patience.reschedule(asyncio.get_running_loop().time() + READ_S)
                raw += chunk
                has_ended = not chunk
    except TimeoutError:
        pass
    except ConnectionError:
        has_ended = True
    finally:
        writer.transport.abort()
    return parsed(bytes(raw), request.method, has_ended)


class _Socket:
    """The part of a socket that http.client needs."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def parsed(raw: bytes, method: bytes, has_ended: bool) -> Reply:
    """The answer in these bytes, after any 100 Continue."""
    while match := re.match(rb"HTTP/1\.1 100 [^\r]*\r\n\r\n", raw):
        raw = raw[match.end() :]
    if not raw:
        return Reply(0, has_ended=has_ended)
    response = HTTPResponse(_Socket(raw), method=method.decode("latin-1"))  # type: ignore[arg-type]  # all that it asks for
    try:
        response.begin()
    except (HTTPException, ValueError):
        return Reply(-1, raw, has_ended=has_ended)
    try:
        body = response.read()
    except IncompleteRead as e:
        body = e.partial
    except ValueError:  # a chunk that was cut
        body = b""
    server = response.headers.get("Server", "")
    return Reply(response.status, body, next(errors(body), None), server, has_ended)


def errors(body: bytes) -> Iterator[object]:
    """The error objects in an answer, whether one object or events."""
    for line in body.splitlines() if body.startswith((b"data:", b"id:", b"retry:", b":", b"event:")) else [body]:
        try:
            value = orjson.loads(line.removeprefix(b"data:"))
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict) and "error" in value:
            yield value["error"]


def is_openais(error: object) -> bool:
    """Whether it has the form that OpenAI's clients read; counts are allowed in addition."""
    if not isinstance(error, dict):
        return False
    rest = dict(error)
    words = [rest.pop(name, 0) for name in ("message", "type")]
    perhaps = [rest.pop(name, 0) for name in ("param", "code")]
    return (
        all(isinstance(word, str) and word for word in words)
        and all(isinstance(word, str | None) for word in perhaps)
        and set(rest) <= COUNTS
        and all(isinstance(number, int) for number in rest.values())
    )


def wrong(request: Request, reply: Reply) -> str:
    """The fault in a few words; empty if there is none."""
    if reply.status == 0:
        return ("no answer" if reply.has_ended else "hangs") if request.is_whole else ""
    if reply.status < 0:
        return "no HTTP"
    if reply.server != "rill":
        return f"{reply.status} by {reply.server}"
    if reply.status == 503 and request.target.startswith(b"/readyz"):  # whose body has the reason
        return ""
    if reply.status >= 400 and request.method != b"HEAD" and not is_openais(reply.error):
        return f"{reply.status} without OpenAI's error"
    if reply.status in (429, 503) and reply.code in REFUSALS:
        return ""
    if reply.status >= 500:
        return f"{reply.status} {reply.code}"
    if isinstance(reply.error, dict) and reply.error.get("type") == "server_error" and reply.code not in REFUSALS:
        return f"{reply.status}, then {reply.code}"
    return ""
