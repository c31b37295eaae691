"""Any answer is parsed and judged."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from service.errors import Invalid, NotReady, RillError
from tests.fuzz.reply import Reply, parsed, send, wrong
from tests.fuzz.request import Request

HEAD = b"HTTP/1.1 %d Word\r\nServer: rill\r\nContent-Length: %d\r\n\r\n"
GOOD = Invalid("no").body()["error"]
OURS = RillError("oh").body()["error"]


def answer(status: int, body: object) -> bytes:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return HEAD % (status, len(raw)) + raw


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (200, {"choices": []}, ""),
        (200, b'id: 1\nevent: done\ndata: {"finish_reason":"stop"}\n\n', ""),
        (200, b"id: 1\nevent: failure\ndata: " + orjson.dumps({"error": GOOD}) + b"\n\n", ""),
        (200, b"data: " + orjson.dumps({"error": OURS}) + b"\n\n", "200, then internal_error"),
        (400, {"error": GOOD}, ""),
        (400, {"error": GOOD | {"n_prompt_tokens": 2000, "n_ctx": 1024}}, ""),
        (400, {"error": GOOD | {"n_ctx": "1024"}}, "400 without OpenAI's error"),
        (400, {"error": {"message": "bad"}}, "400 without OpenAI's error"),
        (400, {"error": "bad"}, "400 without OpenAI's error"),
        (400, {"error": GOOD | {"more": 1}}, "400 without OpenAI's error"),
        (400, {"error": GOOD | {"param": 7}}, "400 without OpenAI's error"),
        (404, b"404: Not Found", "404 without OpenAI's error"),
        (500, {"error": OURS}, "500 internal_error"),
        (503, NotReady("later").body(), ""),
        (503, {"error": OURS}, "503 internal_error"),
    ],
)
def test_faulty_answers(status: int, body: object, fault: str) -> None:
    """Server errors, before and after the headers, and errors that no client of OpenAI's can read."""
    assert wrong(Request(""), parsed(answer(status, body), b"POST", True)) == fault


def test_an_answer_that_is_due() -> None:
    """Silence is a fault after a complete request, and so is anything but HTTP from this service."""
    whole, cut = Request(""), Request("", is_whole=False)
    assert [wrong(whole, Reply(0)), wrong(whole, Reply(0, has_ended=False)), wrong(cut, Reply(0))] == [
        "no answer",
        "hangs",
        "",
    ]
    assert wrong(cut, parsed(b"nonsense\r\n\r\n", b"POST", True)) == "no HTTP"
    foreign = answer(400, {"error": GOOD}).replace(b"rill", b"x/1.0")
    assert wrong(cut, parsed(foreign, b"POST", True)) == "400 by x/1.0"


def test_not_ready_is_no_fault() -> None:
    """A death of the engine is reported as such, and not by each request that is refused meanwhile."""
    reply = parsed(answer(503, {"ready": False, "reason": "loading"}), b"GET", True)
    assert wrong(Request("", method=b"GET", target=b"/readyz?a"), reply) == ""


def test_a_head_has_no_body() -> None:
    """Nor is one expected."""
    raw = HEAD % (405, 100)
    assert wrong(Request("", method=b"HEAD"), parsed(raw, b"HEAD", True)) == ""


def test_an_answer_after_100_continue_or_cut() -> None:
    """100 Continue is not the answer; of a truncated answer the received part counts."""
    reply = parsed(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, b"x" * 10)[:-5], b"POST", False)
    assert (reply.status, reply.body, reply.has_ended) == (200, b"x" * 5, False)
    cut = parsed(b"HTTP/1.1 200 OK\r\nServer: rill\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nf", b"GET", False)
    assert cut.status == 200


async def test_sending() -> None:
    """An answer is read until the service closes; the wait after an incomplete request is short."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            writer.write(answer(400, {"error": GOOD}))
            writer.close()
        else:
            await reader.read()  # until the client leaves
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await send(port, Request(""))).code == "invalid_request"
        assert await send(port, Request("", method=b"GET", is_whole=False)) == Reply(0, has_ended=False)
