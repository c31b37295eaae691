"""What nginx/start guarantees: nginx knows the ready replicas, and no stream is affected when they change."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.nginx.conftest import Nginx, until
from tests.nginx.upstream import open_stream, upstream
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.e2e

Watching = Callable[..., AbstractAsyncContextManager[Nginx]]


def listed(nginx: Nginx) -> str:
    return (nginx.home / "run" / "replicas.conf").read_text()


async def test_replicas_come_and_go(watching: Watching, client: aiohttp.ClientSession) -> None:
    """A replica gets requests from the time it is ready until it reports that it is not; then it gets no more."""
    async with upstream() as one, upstream() as two:
        two.ready = False
        async with watching(one, two) as nginx:

            async def ask(n: int) -> tuple[int, int]:
                before = len(one.asked), len(two.asked)
                for _ in range(n):
                    async with client.get(nginx.url + "/v1/models", headers={"Connection": "close"}) as response:
                        assert response.status == 200
                return len(one.asked) - before[0], len(two.asked) - before[1]

            assert await ask(10) == (10, 0)
            old = set(nginx.workers)
            two.ready = True
            await until(lambda: two.address in listed(nginx))
            await until(lambda: old.isdisjoint(nginx.workers))
            n_one, n_two = await ask(10)  # not by turns: a connection counts until nginx has closed it
            assert n_one > 0 and n_two > 0
            old = set(nginx.workers)
            one.ready = False
            await until(lambda: one.address not in listed(nginx))
            await until(lambda: old.isdisjoint(nginx.workers))
            assert await ask(10) == (0, 10)
            old = set(nginx.workers)
            await one.stop()
            two.ready = False  # none is ready: all known ones are listed, and report the reason themselves
            await until(lambda: one.address in listed(nginx) and two.address in listed(nginx))


async def test_a_stream_outlives_a_change_of_replicas(watching: Watching, client: aiohttp.ClientSession) -> None:
    """A stream continues, event by event, while replicas come and go; the workers of old configurations end with their
    last stream."""
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        for n in range(4):
            await response.write(b"data: %d\n\n" % n)
            await received.get()
        return response

    async with upstream(stream) as one, upstream() as two:
        two.ready = False
        async with watching(one, two) as nginx:
            first = set(nginx.workers)
            async with client.get(nginx.url + "/stream") as response:
                for n in range(4):
                    assert await response.content.readany() == b"data: %d\n\n" % n
                    was = listed(nginx)
                    two.ready = not two.ready
                    await until(lambda was=was: listed(nginx) != was)  # type: ignore[misc]
                    await until(lambda: bool(set(nginx.workers) - first))
                    received.put_nowait(b"")
                assert await response.read() == b""
            await until(lambda: first.isdisjoint(nginx.workers))


async def test_a_stop_lets_streams_end(watching: Watching, client: aiohttp.ClientSession) -> None:
    """SIGTERM closes the listener, waits for the open streams and then exits with 0."""
    go_on = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = await open_stream(request)
        await response.write(b"data: 0\n\n")
        await go_on.wait()
        await response.write(b"data: 1\n\n")
        return response

    async with upstream(stream) as one, watching(one) as nginx, AsyncExitStack() as stack:
        response = await stack.enter_async_context(client.get(nginx.url + "/stream"))
        assert await response.content.readany() == b"data: 0\n\n"
        nginx.process.send_signal(signal.SIGTERM)
        await until(lambda: not nginx.listens)
        go_on.set()
        assert await response.read() == b"data: 1\n\n"
        assert await asyncio.wait_for(nginx.process.wait(), PATIENCE_S) == 0


async def test_no_replica_at_all(watching: Watching, client: aiohttp.ClientSession) -> None:
    """Without replicas nginx runs, answers 502 at once, and serves when a replica has started."""
    async with upstream() as one:
        await one.stop()
        async with watching(one) as nginx:
            async with client.get(nginx.url + "/v1/models") as response:
                assert response.status == 502
            await one.start()
            async with asyncio.timeout(PATIENCE_S):
                status = 0
                while status != 200:
                    async with client.get(nginx.url + "/v1/models") as response:
                        status = response.status


async def test_a_failed_look_up_takes_no_replica_out(
    watching: Watching, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """While name resolution fails the known replicas stay, but one that is not ready is removed."""
    (programs := tmp_path / "programs").mkdir()
    asked, down = tmp_path / "asked", tmp_path / "down"
    look_up = programs / "getent"
    look_up.write_text(f'#!/bin/bash\necho >>{asked}; [ -e {down} ] && exit 2; echo "$2 STREAM"\n')
    look_up.chmod(0o755)

    async def looked_up(n: int) -> None:
        before = asked.stat().st_size
        await until(lambda: asked.stat().st_size >= before + n)

    async with upstream() as one, upstream() as two, watching(one, two, programs=str(programs)) as nginx:
        await until(lambda: one.address in listed(nginx) and two.address in listed(nginx))
        down.touch()
        await looked_up(6)  # two names: three times
        # On a busy machine one may have been too slow to report that it is ready, which is required of it now.
        await until(lambda: one.address in listed(nginx) and two.address in listed(nginx))
        async with client.get(nginx.url + "/v1/models") as response:
            assert response.status == 200
        two.ready = False
        await until(lambda: two.address not in listed(nginx) and one.address in listed(nginx))
        down.unlink()
        two.ready = True
        await until(lambda: two.address in listed(nginx))
