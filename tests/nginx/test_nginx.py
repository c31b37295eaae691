"""What nginx/nginx.conf guarantees, with a real nginx between a client and scripted replicas."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.nginx.conftest import Nginx
from tests.nginx.upstream import Upstream, crash, never, open_stream, plain, upstream
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.e2e

InFrontOf = Callable[..., AbstractAsyncContextManager[Nginx]]
SECRET = "whisper-7319"
EVENT_STREAM = {"Accept": "text/event-stream"}
ALIASES = ("/chat/completions", "/completions", "/completion")  # other names for what is below /v1/


async def crashing(request: web.Request) -> web.StreamResponse:
    crash(request)
    return await plain(request)


async def raw(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Sends bytes that no HTTP client would send; returns the answer's head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n")
        length = next((f for f in head.split(b"\r\n") if f.startswith(b"Content-Length: ")), b": 0")
        body = b"" if request.startswith(b"HEAD") else await reader.readexactly(int(length.split()[1]))
    writer.close()
    return head, body


def code_of(body: str | bytes) -> str:
    """The code of an error in OpenAI's format; any other format is an AssertionError."""
    error: dict[str, Any] = json.loads(body)["error"]
    assert {"message", "type", "param", "code"} == set(error)
    return str(error["code"])


# ---- streams are not buffered ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/stream?prompt=hi", {}),
        ("POST", "/stream", {}),
        ("GET", "/stream?prompt=hi", {"Last-Event-ID": "s.3"}),
        ("GET", "/stream?prompt=hi&key=k", {"Accept-Encoding": "gzip, br"}),
        ("POST", "/v1/chat/completions", {"Accept-Encoding": "gzip"}),
        ("POST", "/chat/completions", {"Accept-Encoding": "gzip"}),
        ("POST", "/completion", {"Accept-Encoding": "gzip"}),
        ("GET", "/v1/streams/abc", {}),
    ],
)
async def test_an_event_is_sent_before_the_next_is_made(
    method: str, path: str, headers: dict[str, str], in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """The client has each event before the service makes the next one: nothing is held back."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        for n in range(5):
            event = b"data: %d\n\n" % n
            await response.write(event)
            assert event == await asyncio.wait_for(received.get(), PATIENCE_S)
        return response

    async with (
        upstream(stream) as service,
        in_front_of(service) as nginx,
        client.request(method, nginx.url + path, headers=headers) as response,
    ):
        assert "Content-Encoding" not in response.headers
        events = []
        async for chunk in response.content.iter_any():
            events.append(chunk)
            received.put_nowait(chunk)
        assert [b"data: %d\n\n" % n for n in range(5)] == events


async def test_an_outer_nginx_is_told_not_to_buffer(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The service's header, which nginx obeys and normally removes, reaches a proxy in front of it."""

    async def stream(request: web.Request) -> web.StreamResponse:
        return web.Response(text="data: 1\n\n", headers={"X-Accel-Buffering": "no"})

    async with (
        upstream(stream) as service,
        in_front_of(service) as nginx,
        client.get(nginx.url + "/stream") as response,
    ):
        assert response.headers.getall("X-Accel-Buffering") == ["no"]


async def test_the_head_of_a_stream_is_sent_before_its_first_event(
    in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """A reader knows at once that its stream was accepted, however long the prefill takes."""
    seen = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await asyncio.wait_for(seen.wait(), PATIENCE_S)
        return response

    async with (
        upstream(stream) as service,
        in_front_of(service) as nginx,
        client.get(nginx.url + "/stream") as response,
    ):
        assert response.status == 200
        seen.set()
        assert await response.read() == b""


async def test_a_replica_that_dies_in_mid_stream_is_an_error(
    in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """A stream that was cut never looks like a stream that ended."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(b"data: 0\n\n")
        crash(request)
        return response

    async with (
        upstream(stream) as service,
        in_front_of(service) as nginx,
        client.get(nginx.url + "/stream") as response,
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
        assert len(service.asked) == 1


async def test_a_client_that_leaves_is_noticed(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The service sees its reader's disconnection as soon as nginx does, so that it can cancel the generation."""
    gone = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(b"data: 0\n\n")
        try:
            await never()
        finally:
            gone.set()
        return response

    async with upstream(stream) as service, in_front_of(service) as nginx:
        async with client.get(nginx.url + "/stream") as response:
            assert await response.content.readany() == b"data: 0\n\n"
        await asyncio.wait_for(gone.wait(), PATIENCE_S)


async def test_64_streams_at_once_from_one_address(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """One address may have 64 concurrent streams, started in the same instant; none gets another's events."""
    arrived = 0
    all_here = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 64:
            all_here.set()
        response = await open_stream(request)
        await asyncio.wait_for(all_here.wait(), PATIENCE_S)
        for _ in range(3):
            await response.write(f"data: {request.query['n']}\n\n".encode())
        return response

    async def read(url: str) -> str:
        async with client.get(url) as response:
            assert response.status == 200
            return await response.text()

    async with upstream(stream) as service, in_front_of(service) as nginx:
        client.connector._limit = 0  # type: ignore[union-attr]
        texts = await asyncio.gather(*(read(f"{nginx.url}/stream?n={n}") for n in range(64)))
    assert [f"data: {n}\n\n" * 3 for n in range(64)] == texts


# ---- the hop to the service ------------------------------------------------------------------------------------------


async def test_connections_to_the_service_are_reused(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """Requests use HTTP/1.1 keep-alive connections: at most one for each nginx worker."""
    async with upstream() as service, in_front_of(service) as nginx:
        for _ in range(40):
            async with client.get(nginx.url + "/v1/models", headers={"Connection": "close"}) as response:
                assert response.status == 200
        n_workers = len(nginx.workers)
    assert {(1, 1)} == {a.version for a in service.asked}
    assert len({a.connection for a in service.asked}) <= n_workers


async def test_what_is_forwarded_to_the_service(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The client's address, scheme, host and request id reach the service; the client's claims about them do not, and
    neither does Accept-Encoding."""
    sent = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Request-ID": "abc-1",
        "Accept-Encoding": "gzip",
        "Last-Event-ID": "s.4",
        "Authorization": "Bearer k",
    }
    async with upstream() as service, in_front_of(service) as nginx:
        url = URL(nginx.url + "/stream?prompt=a%20b&x=%2F", encoded=True)
        async with client.get(url, headers=sent) as response:
            assert response.status == 200
    [asked] = service.asked
    assert asked.path_qs == "/stream?prompt=a%20b&x=%2F"
    assert asked.headers["X-Forwarded-For"] == "127.0.0.1"
    assert asked.headers["X-Forwarded-Proto"] == "http"
    assert f"127.0.0.1:{nginx.port}" == asked.headers["Host"]
    assert asked.headers["X-Request-ID"] == "abc-1"
    assert asked.headers["Last-Event-ID"] == "s.4"
    assert asked.headers["Authorization"] == "Bearer k"
    assert not {"Accept-Encoding", "Connection"} & set(asked.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/stream", 405),
        ("OPTIONS", "/v1/chat/completions", 204),
        ("GET", "/stream?prompt=hi", 204),
        ("GET", "/v1/streams/abc", 204),
        ("GET", "/v1/streams/abc", 404),
        ("DELETE", "/v1/streams/abc", 503),
        ("POST", "/v1/streams", 201),
        ("POST", "/v1/completions", 503),
        ("POST", "/v1/completions", 429),
        ("GET", "/nowhere", 404),
    ],
)
async def test_the_services_answers_are_unchanged(
    method: str, path: str, status: int, in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """Status, headers and body are the service's own; nothing is duplicated."""
    body = {"error": {"message": "m", "type": "t", "param": None, "code": "from_service"}}
    bare = status == 204 or method == "HEAD"

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"Retry-After": "7", "X-Request-ID": "own", "Cache-Control": "no-store"}
        if bare:
            return web.Response(status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    async with (
        upstream(answer) as service,
        in_front_of(service) as nginx,
        client.request(method, nginx.url + path, headers={"Last-Event-ID": "s.9"}) as response,
    ):
        assert status == response.status
        assert [method] == [a.method for a in service.asked]
        for name, value in (("Retry-After", "7"), ("X-Request-ID", "own"), ("Cache-Control", "no-store")):
            assert [value] == response.headers.getall(name)
        assert bare or code_of(await response.read()) == "from_service"


# ---- work is done once -----------------------------------------------------------------------------------------------


async def test_a_failed_generation_is_not_retried(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """GET /stream reaches one replica, once, even if that replica dies before it answers."""
    async with (
        upstream(crashing) as one,
        upstream(crashing) as two,
        in_front_of(one, two) as nginx,
        client.get(nginx.url + "/stream?prompt=poison", headers=EVENT_STREAM) as response,
    ):
        assert response.status == 502
        assert response.headers["Retry-After"] == "2"
        assert code_of(await response.read()) == "service_unreachable"
        assert len(one.asked) + len(two.asked) == 1


@pytest.mark.parametrize("path", ["/stream", "/v1/chat/completions", "/v1/completions", "/v1/streams", *ALIASES])
async def test_a_failed_post_is_not_retried(path: str, in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """A POST that a replica has received is never sent to another."""
    async with (
        upstream(crashing) as one,
        upstream(crashing) as two,
        in_front_of(one, two) as nginx,
        client.post(nginx.url + path, json={}) as response,
    ):
        assert response.status == 502
        assert code_of(await response.read()) == "service_unreachable"
        assert len(one.asked) + len(two.asked) == 1


async def test_a_post_skips_an_unreachable_replica(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """A replica that could not be connected to has received nothing, so another one may do the work: no POST is
    lost."""
    async with upstream() as one, upstream() as two, in_front_of(one, two) as nginx:
        await one.stop()
        for _ in range(8):
            async with client.post(nginx.url + "/v1/completions", json={}) as response:
                assert response.status == 200
    assert len(two.asked) == 8


async def test_failures_do_not_take_a_replica_out(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """After any number of failures the next request is served."""
    async with upstream(crashing) as service, in_front_of(service) as nginx:
        for _ in range(10):
            async with client.get(nginx.url + "/stream") as response:
                assert response.status == 502
        service.answer = plain
        async with client.get(nginx.url + "/stream") as response:
            assert response.status == 200


# ---- several replicas ------------------------------------------------------------------------------------------------


async def test_streams_are_balanced_by_open_streams(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """Twelve open streams on three replicas are four on each."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await never()
        return response

    async with (
        upstream(stream) as one,
        upstream(stream) as two,
        upstream(stream) as three,
        in_front_of(one, two, three) as nginx,
        contextlib.AsyncExitStack() as open_streams,
    ):
        for _ in range(12):
            await open_streams.enter_async_context(client.get(nginx.url + "/stream"))
        assert [len(u.asked) for u in (one, two, three)] == [4, 4, 4]


# The ways in which EventSource and the page start, resume and stop.
BY_KEY: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/stream?prompt=hi&", {}),
    ("GET", "/stream?prompt=hi&", {"Last-Event-ID": "s.1"}),
    ("POST", "/stream?", {}),
    ("GET", "/v1/streams/s?", {}),
    ("GET", "/v1/streams/s?", {"Last-Event-ID": "s.1"}),
    ("DELETE", "/v1/streams/s?", {}),
]


async def test_a_key_stays_with_its_replica(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """Requests with the same key= reach the same replica, so that a repeat finds its stream; keys are spread."""
    async with upstream() as one, upstream() as two, in_front_of(one, two) as nginx:
        for key in range(20):
            for method, path, headers in BY_KEY:
                url = f"{nginx.url}{path}key=k{key}"
                async with client.request(method, url, headers=headers) as response:
                    assert response.status == 200
    keys = [{a.path_qs.partition("key=")[2] for a in u.asked} for u in (one, two)]
    assert keys[0] and keys[1]
    assert not keys[0] & keys[1]


# ---- reconnection ----------------------------------------------------------------------------------------------------


ATTACHES = [("/stream?prompt=hi", {"Last-Event-ID": "s.5"}), ("/v1/streams/abc", {})]


@pytest.mark.parametrize(("path", "headers"), ATTACHES)
@pytest.mark.parametrize("fault", [502, 503, 504, "crash", "gone"])
async def test_a_failed_attach_asks_to_reconnect(
    fault: int | str,
    path: str,
    headers: dict[str, str],
    in_front_of: InFrontOf,
    client: aiohttp.ClientSession,
) -> None:
    """EventSource gives up on any status but 200, so a stream's reader gets an empty 200 with a retry time."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if isinstance(fault, int):
            return web.Response(status=fault, headers={"Retry-After": "9"})
        return await crashing(request)

    async with upstream(answer) as service, in_front_of(service) as nginx:
        if fault == "gone":
            await service.stop()
        async with client.get(nginx.url + path, headers=EVENT_STREAM | headers) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            assert response.headers["Cache-Control"] == "no-store"
            field, value = (await response.text()).removesuffix("\n\n").split(": ")
            assert (field, 1500 <= int(value) <= 3000) == ("retry", True)
        assert len(service.asked) == (fault != "gone")


async def test_reconnections_are_spread(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The readers of a lost replica are not all told to reconnect at the same moment."""
    async with upstream() as service, in_front_of(service) as nginx:
        await service.stop()
        texts = set()
        for _ in range(40):
            async with client.get(nginx.url + "/v1/streams/abc") as response:
                texts.add(await response.text())
    assert len(texts) > 1


async def test_a_failed_cancel(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """DELETE on a stream does not read it: it gets the error."""
    async with upstream() as service, in_front_of(service) as nginx:
        await service.stop()
        async with client.delete(nginx.url + "/v1/streams/abc") as response:
            assert response.status == 502
            assert code_of(await response.read()) == "service_unreachable"


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/stream", "/v1/chat/completions", "/v1/streams"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_1_mib_is_refused(
    chunked: bool, path: str, in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """It gets 413 in OpenAI's error format, and never reaches the service."""

    async def chunks() -> Any:
        for _ in range(33):
            yield b"x" * 32768

    async with upstream() as service, in_front_of(service) as nginx:
        if chunked:
            # By hand: nginx answers before the end of the body, which aiohttp's client takes for a broken connection.
            body = b"".join([b"8000\r\n" + c + b"\r\n" async for c in chunks()])
            request = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            head, answer = await raw(nginx.port, request.encode() + body + b"0\r\n\r\n")
            assert head.split()[1] == b"413"
        else:
            async with client.post(nginx.url + path, data=b"x" * (1024 * 1024 + 1)) as response:
                assert response.status == 413
                answer = await response.read()
        assert code_of(answer) == "body_too_large"
        assert service.asked == []


async def test_a_body_of_1_mib_passes_and_is_never_in_a_file(
    in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """The largest body stays in memory: a prompt is never written to a disk."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"n": (await request.content.readexactly(1024 * 1024)).count(b"x")})

    async with upstream(answer) as service, in_front_of(service) as nginx:
        async with client.post(nginx.url + "/v1/completions", data=b"x" * (1024 * 1024)) as response:
            assert await response.json() == {"n": 1024 * 1024}
        assert [f for f in (nginx.home / "temp").rglob("*") if f.is_file()] == []
        assert "xxxx" not in nginx.written


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /stream?prompt=" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "url_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 9000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /stream HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_request"),
        (b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: fox\r\n\r\n", 400, "bad_request"),
        (b"GET /stream?prompt=x HTTP/2.0\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"TRACE /stream HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method_not_allowed"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 404, "not_found"),
    ],
)
async def test_invalid_requests(request_bytes: bytes, status: int, code: str, in_front_of: InFrontOf) -> None:
    """Bytes that nginx itself refuses are refused in OpenAI's error format, and the service never sees them."""
    async with upstream() as service, in_front_of(service) as nginx:
        head, body = await raw(nginx.port, request_bytes)
        assert status == int(head.split()[1])
        assert code == code_of(body)
        assert service.asked == []


@pytest.mark.parametrize("path", ["/", "/rill.js", "/v1", "/v1/models", "/v1/streams", "/nowhere"])
async def test_an_unreachable_service_has_the_common_error_format(
    path: str, in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """At each address, also the page's."""
    async with upstream() as service:
        await service.stop()
        async with in_front_of(service) as nginx, client.get(nginx.url + path, allow_redirects=False) as response:
            assert (response.status, code_of(await response.read())) == (502, "service_unreachable")


async def test_connections_of_one_address_are_limited(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """256 concurrent requests from one address are served; the next gets 429 with Retry-After, without reaching the
    service."""

    async def hang(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await never()
        return response

    client.connector._limit = 0  # type: ignore[union-attr]
    async with (
        upstream(hang) as service,
        in_front_of(service) as nginx,
        contextlib.AsyncExitStack() as open_requests,
    ):
        for _ in range(256):
            response = await open_requests.enter_async_context(client.get(nginx.url + "/"))
            assert response.status == 200
        async with client.post(nginx.url + "/v1/completions") as response:
            assert response.status == 429
            assert response.headers.getall("Retry-After") == ["1"]
            assert code_of(await response.read()) == "too_many_requests"
        assert len(service.asked) == 256
        async with client.get(nginx.url + "/v1/streams/abc") as response:
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")


async def test_the_request_rate_of_one_address_is_limited(
    in_front_of: InFrontOf, client: aiohttp.ClientSession
) -> None:
    """A burst of 200 passes without a delay, a flood after it is refused: readers are asked to reconnect later, all
    others get 429."""
    async with upstream() as service, in_front_of(service) as nginx:

        async def status(path: str) -> int:
            async with client.post(nginx.url + path, json={}) as response:
                return response.status

        burst = [await status("/v1/completions") for _ in range(200)]
        assert {200} == set(burst)
        flood: list[int] = []
        while 429 not in flood:  # 50 a second pass, which a busy machine may take a while to exceed
            flood += await asyncio.gather(*(status("/stream") for _ in range(400)))
        assert {200, 429} == set(flood)
        assert len(service.asked) == 200 + flood.count(200)
        for path in (*ALIASES, "/models", "/models/a", "/props"):
            while 429 not in await asyncio.gather(*(status(path) for _ in range(100))):
                pass
        while True:
            async with client.get(nginx.url + "/stream", headers={"Last-Event-ID": "s.5"}) as response:
                assert response.status == 200
                if response.headers["Content-Type"] == "text/event-stream":
                    break


async def test_a_replica_that_does_not_accept_is_a_504(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """A service that accepts no connection within 2 s is a 504 in OpenAI's error format."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):  # fill its backlog: the kernel then answers no further connection
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(full.getsockname())
            waiting.append(s)
        async with (
            in_front_of(Upstream(port=full.getsockname()[1])) as nginx,
            client.post(nginx.url + "/v1/completions") as response,
        ):
            assert response.status == 504
            assert response.headers["Retry-After"] == "2"
            assert code_of(await response.read()) == "service_timeout"
        for s in waiting:
            s.close()


# ---- access, headers and logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics?name[]=x",
        "//metrics",
        "/./metrics",
        "/x/../metrics",
        "/%6d%65trics",
        "/stream/..//metrics",
    ],
)
async def test_metrics_are_not_public(path: str, in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """/metrics is refused in every spelling, without a request to the service."""
    async with upstream() as service, in_front_of(service) as nginx:
        url = URL(nginx.url + path, encoded=True)
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            async with client.request(method, url) as response:
                assert response.status == 404
        head, _ = await raw(nginx.port, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert head.split()[1] == b"404"
        assert service.asked == []


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/rill.js", {}),
        ("GET", "/metrics", {}),
        ("GET", "/stream", {}),
        ("GET", "/stream", {"Last-Event-ID": "s.1"}),
        ("POST", "/v1/completions", {}),
        ("GET", "/v1/streams/abc", {}),
        ("DELETE", "/v1/streams/abc", {}),
        ("POST", "/v1/completions", {"Content-Length": "9000000"}),
        ("GET", "/" + "x" * 9000, {}),
        ("GET", "/errors/400", {}),
    ],
)
async def test_every_answer_carries_the_security_headers_once(
    method: str,
    path: str,
    headers: dict[str, str],
    alive: bool,
    in_front_of: InFrontOf,
    client: aiohttp.ClientSession,
) -> None:
    """Every location and every error has each security header; the service's own do not duplicate it; each answer has
    one request id."""

    async def answer(request: web.Request) -> web.StreamResponse:
        own = {"X-Frame-Options": "SAMEORIGIN", "X-Content-Type-Options": "y", "Referrer-Policy": "z"}
        if path == "/":
            own["Content-Security-Policy"] = "default-src 'self'; img-src data:"
        return web.Response(headers=own)

    async with upstream(answer) as service, in_front_of(service) as nginx:
        if not alive:
            await service.stop()
        lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        head, _ = await raw(
            nginx.port, f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n".encode()
        )
    status, *fields = head.decode().split("\r\n")
    values = sorted((name, value) for name, _, value in (f.partition(": ") for f in fields))
    wanted = {
        "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'; object-src 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    if alive and path == "/":  # the page sets its own
        wanted["Content-Security-Policy"] = "default-src 'self'; img-src data:"
    assert sorted(wanted.items()) == [v for v in values if v[0] in wanted], status
    assert len([v for v in values if v[0] == "X-Request-ID"]) == 1, status
    assert dict(values)["Server"] == "nginx", status


async def test_a_request_id_is_made_or_forwarded(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The id that the client sent, or a new one, is in the service's request, in the answer and in the log."""
    async with upstream() as service, in_front_of(service) as nginx:
        for sent in ({"X-Request-ID": "abc-1"}, {}, {}):
            async with client.get(nginx.url + "/v1/models", headers=sent) as response:
                assert service.asked[-1].headers["X-Request-ID"] == response.headers["X-Request-ID"]
        ids = [line["id"] for line in await nginx.logged(3)]
    assert ids[0] == "abc-1"
    assert len(set(ids)) == 3
    assert ids == [a.headers["X-Request-ID"] for a in service.asked]


async def test_the_access_log(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """One line of JSON per request: time, client, request, result, replica and the duration of each part. The path is
    the requested one, not an error's; the stream's id, with which it could be read, is not logged."""
    async with upstream() as service, in_front_of(service) as nginx:
        async with client.get(nginx.url + "/stream?prompt=hi") as response:
            await response.read()
        async with client.get(nginx.url + "/v1/streams/s3cr3t?x=1") as response:
            await response.read()
        await service.stop()
        async with client.post(nginx.url + "/v1/completions", json={}) as response:
            await response.read()
        async with client.delete(nginx.url + "/v1/streams/s3cr3t") as response:
            await response.read()
        served, attached, failed, cancelled = await nginx.logged(4)
    assert tuple(served[k] for k in ("method", "path", "status", "complete")) == ("GET", "/stream", 200, "OK")
    assert ("127.0.0.1", service.address, "200") == tuple(served[k] for k in ("address", "upstream", "upstream_status"))
    for field in ("connect_seconds", "header_seconds", "upstream_seconds"):
        assert float(served[field]) >= 0
    assert "/v1/streams/{id}" == attached["path"] == cancelled["path"]
    assert tuple(failed[k] for k in ("path", "status", "upstream_status")) == ("/v1/completions", 502, "502")


async def test_a_prompt_is_never_written_down(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """Whatever goes wrong on whatever route, nothing that nginx writes, to any log or file, has any of a prompt."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(b"data: 0\n\n")
        crash(request)
        return response

    url_query = f"?prompt={SECRET}&system={SECRET}"
    headers = {"Referer": f"http://a/?prompt={SECRET}"}
    n = 0
    async with upstream() as service, in_front_of(service) as nginx:
        for answer in (plain, crashing, cut, None):
            if answer is None:
                await service.stop()
            else:
                service.answer = answer
            for method in ("GET", "POST", "DELETE", "HEAD"):
                for path in ("/", "/stream", "/v1/completions", "/v1/streams/x", "/metrics"):
                    body = None if method in ("GET", "HEAD") else f'{{"prompt": "{SECRET}"}}'
                    url = nginx.url + path + url_query
                    n += 1
                    with contextlib.suppress(aiohttp.ClientError):
                        async with client.request(method, url, data=body, headers=headers) as response:
                            await response.read()
        for request in (
            f"GET /stream?prompt={SECRET}{'x' * 9000} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET /stream?prompt={SECRET} {SECRET} HTTP/1.1\r\nHost: a\r\n\r\n",
            f"GET /stream?prompt={SECRET} HTTP/1.1\r\n\r\n",
            f"GET /stream?prompt={SECRET} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            f"POST /stream?prompt={SECRET} HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\nConnection: close\r\n\r\n",
        ):
            n += 1
            await raw(nginx.port, request.encode())
        assert len(await nginx.logged(n)) == n

        async def status() -> int:
            async with client.get(nginx.url + "/stream" + url_query) as response:
                await response.read()
                return response.status

        statuses: list[int] = []
        while 429 not in statuses:  # 50 a second pass, which a busy machine may take a while to exceed
            statuses += await asyncio.gather(*(status() for _ in range(300)))
        assert 429 in {line["status"] for line in await nginx.logged(n + len(statuses))}
        assert SECRET not in nginx.written


async def test_files_are_compressed_streams_are_not(in_front_of: InFrontOf, client: aiohttp.ClientSession) -> None:
    """The page's files are compressed."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text="a { color: red }\n" * 200, content_type="text/css")

    async with (
        upstream(answer) as service,
        in_front_of(service) as nginx,
        client.get(nginx.url + "/rill.css", headers={"Accept-Encoding": "gzip"}) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept-Encoding"
        assert await response.text() == "a { color: red }\n" * 200


async def test_the_configuration_has_no_warnings(in_front_of: InFrontOf) -> None:
    """nginx starts without a single warning."""
    async with upstream() as service, in_front_of(service) as nginx:
        said = nginx.errors
    assert not {"[warn]", "[error]", "[crit]", "[alert]", "[emerg]"} & set(said.split())
