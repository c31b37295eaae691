from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from service.__main__ import supervisor
from service.app import Rill
from service.protocol.options import Options
from service.settings import read
from service.supervision.model_file import STARTER
from tests.events import parse, text
from tests.fakes import STORY
from tests.patience import PATIENCE_S


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


FRONT = str(Path(__file__).parent / "front.py")


@dataclass
class Process:
    """A service in a process of its own, and a client of it."""

    process: asyncio.subprocess.Process
    url: str
    banner: str
    client: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # lines that are not JSON

    def __post_init__(self) -> None:
        self._logging = asyncio.create_task(self._log())

    async def _log(self) -> None:
        """Reads its log all the time: a service with a full stderr pipe blocks at its next line."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            if line.startswith(b"{"):
                self.log.append(json.loads(line))
            else:
                self.said.append(line.decode().rstrip())

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.client.get("/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.02)

    async def engine_pid(self) -> int:
        """The one child of the service."""
        (pid,) = children(self.process.pid)
        return pid

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signals it, and returns its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.wait()

    async def wait(self) -> int:
        """Its exit status; its log is complete by then."""
        async with asyncio.timeout(PATIENCE_S):
            await self._logging
            return await self.process.wait()


Launch = Callable[..., Awaitable[Process]]


@pytest.fixture
async def launch() -> AsyncIterator[Launch]:
    """`await launch("behaviour", …, SETTING=…)`: a front with that scripted engine on a free port."""
    launched: list[Process] = []

    async def go(*script: str, **settings: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            FRONT,
            *script,
            env={**os.environ, "RILL_PORT": "0", **{f"RILL_{name}": value for name, value in settings.items()}},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            banner = (await process.stdout.readuntil(b"'\n")).decode()
        url = re.findall(r"http://[\w.]+:\d+", banner)[0]
        client = aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        launched.append(Process(process, url, banner, client))
        return launched[-1]

    yield go
    for one in launched:
        await one.client.close()
        if one.process.returncode is None:
            one.process.kill()
        await one.wait()


async def until(response: aiohttp.ClientResponse, what: bytes) -> bytes:
    got = b""
    while what not in got:
        chunk = await response.content.readany()
        assert chunk, got
        got += chunk
    return got


async def test_the_banner_names_the_page_and_a_curl_line_that_works(launch: Launch) -> None:
    """The printed address and the printed command both work."""
    service = await launch("obedient")
    await service.ready()
    (url,) = re.findall(r"curl -N '([^']+)'", service.banner)
    assert url == f"{service.url}/stream?prompt=Tell+me+a+story+about+a+fox"
    async with service.client.get(url) as response:
        assert text(parse(await response.read())) == "".join(STORY)
    async with service.client.get(f"{service.url}/") as response:
        assert response.status == 200
    assert await service.end() == 0
    assert [line["message"] for line in service.log if line["logger"] == "service"] == ["ready", "draining", "stopped"]


async def test_the_banner_has_the_published_address(launch: Launch) -> None:
    """Behind a published port it has that address, and not the one inside the container."""
    service = await launch("obedient", PUBLISH="127.0.0.1:9")
    assert re.findall(r"http://[^/]+", service.banner) == ["http://127.0.0.1:9"] * 2
    assert await service.end() == 0


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"HOST": "127.0.0.1"}, False),
        ({"HOST": "0.0.0.0"}, True),
        ({"HOST": "0.0.0.0", "API_KEYS": "one"}, False),
        ({"HOST": "0.0.0.0", "PUBLISH": "8080"}, True),
        ({"HOST": "0.0.0.0", "PUBLISH": "127.0.0.1:8080"}, False),
    ],
)
async def test_access_without_a_key_is_warned_of(launch: Launch, settings: dict[str, str], warned: bool) -> None:
    """One warning, with the settings to change, if other machines can reach it without a key."""
    service = await launch("obedient", **settings)
    assert await service.end() == 0
    lines = [line for line in service.log if line["message"] == "open to any client that can reach it"]
    assert [line["level"] for line in lines] == ["warning"] * warned
    assert all("RILL_API_KEYS" in line["set"] for line in lines)


async def test_unknown_settings_are_warned_of(launch: Launch) -> None:
    """A warning for a misspelt one, and one for a setting of earlier versions; neither is an error."""
    service = await launch("obedient", PROT="9000", DRAFT_MODEL="small.gguf")
    assert await service.end() == 0
    unknown, removed = (line for line in service.log if line["level"] == "warning")
    assert (unknown["message"], unknown["names"]) == ("unknown settings", ["RILL_PROT"])
    assert removed["message"].startswith("RILL_DRAFT_MODEL is no longer a setting: ")


async def test_the_engines_options_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its name; the model is its file's path."""
    for name, value in (("N_CTX", "4096"), ("STEP_MS", "50"), ("KV_TYPE", "q8_0"), ("CHAT_TEMPLATE", "chatml")):
        monkeypatch.setenv(f"RILL_{name}", value)
    expected = Options(model=str(STARTER), n_ctx=4096, step_ms=50.0, kv_type="q8_0", chat_template="chatml")
    assert await supervisor(read(), cast(Rill, None))._prepare() == expected


async def test_an_engines_final_error_ends_the_service(launch: Launch) -> None:
    """Settings that only the engine can check end it as other invalid ones do: status 2, and the reason in a line."""
    service = await launch("final")
    assert await service.wait() == 2
    assert service.said == ["rill: no such model"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_streams_finish(launch: Launch, number: signal.Signals, tmp_path: Path) -> None:
    """New work is refused at once, the stream ends with done, and the exit status is 0; the engine is gone, too."""
    refused_all = tmp_path / "the engine may speak"
    service = await launch("obedient", "--after", str(refused_all), DRAIN_S=str(PATIENCE_S))
    await service.ready()
    engine = await service.engine_pid()
    response = await service.client.get("/stream", params={"prompt": "x"})
    service.process.send_signal(number)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with service.client.get("/readyz") as readiness:
                if readiness.status == 503:
                    break
    async with service.client.get("/stream", params={"prompt": "x"}) as refused:
        assert refused.status == 503
    refused_all.touch()
    events = parse(await response.read())
    assert (events[-1].name, text(events)) == ("done", "".join(STORY))
    assert await service.wait() == 0
    assert not runs(engine)


async def test_streams_that_do_not_finish_in_time_fail(launch: Launch) -> None:
    """At the end of the drain: one failure, shutting_down, and exit status 0."""
    service = await launch("patient", DRAIN_S="0.2")
    await service.ready()
    response = await service.client.get("/stream", params={"prompt": "x"})
    await until(response, b'"text"')
    status, raw = await asyncio.gather(service.end(), response.read())
    assert status == 0
    assert parse(raw)[-1].json()["error"]["code"] == "shutting_down"


async def test_a_second_signal_ends_the_drain(launch: Launch) -> None:
    """A second Ctrl-C does not wait for it; the streams still get their failure."""
    service = await launch("patient", DRAIN_S="600")
    await service.ready()
    response = await service.client.get("/stream", params={"prompt": "x"})
    await until(response, b'"text"')
    service.process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with service.client.get("/readyz") as readiness:
                if readiness.status == 503:
                    break
    status, raw = await asyncio.gather(service.end(signal.SIGINT), response.read())
    assert status == 0
    assert parse(raw)[-1].json()["error"]["code"] == "shutting_down"


async def test_kill_9_of_the_engine(launch: Launch) -> None:
    """/readyz goes 503 and back; streams that were open continue, and the next request works."""
    service = await launch("patient")
    await service.ready()
    engine = await service.engine_pid()
    responses = [await service.client.get("/stream", params={"prompt": "x"}) for _ in range(4)]
    for response in responses:
        await until(response, b'"text"')
    os.kill(engine, signal.SIGKILL)
    for response in responses:
        for _ in range(100):
            assert b"event: failure" not in await until(response, b'"text"')
        response.close()
    await service.ready()
    assert await service.engine_pid() != engine
    response = await service.client.get("/stream", params={"prompt": "x"})
    await until(response, b'"text"')
    response.close()


async def test_the_engine_dies_with_the_front(launch: Launch) -> None:
    """kill -9 of the front leaves no engine behind: its connection has ended."""
    service = await launch("obedient")
    await service.ready()
    engine = await service.engine_pid()
    service.process.kill()
    await service.process.wait()
    async with asyncio.timeout(PATIENCE_S):
        while runs(engine):  # noqa: ASYNC110  # it is not a child of this process
            await asyncio.sleep(0.02)


async def test_every_log_line_is_json_without_the_prompt(launch: Launch) -> None:
    """Including those of a request that could not be parsed."""
    service = await launch("obedient")
    await service.ready()
    for prompt in ("secret", "secret" * 2000):
        async with service.client.get("/stream", params={"prompt": prompt}) as response:
            await response.read()
    assert await service.end() == 0
    assert "secret" not in json.dumps(service.log)
    assert [line["route"] for line in service.log if line["message"] == "request"] == ["/stream"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PORT": "banana"}, "rill: RILL_PORT: "),
        ({"N_SEQ": "0"}, "rill: RILL_N_SEQ: "),
        ({"MODEL": "/nonexistent.gguf"}, "rill: the model /nonexistent.gguf can't be read: "),
        ({"MODEL": "hf:what"}, "rill: RILL_MODEL is 'hf:what'"),
        ({"STORE_PATH": "/nonexistent/s"}, "rill: RILL_STORE_PATH: /nonexistent/s: No such file or directory"),
        ({"REDIS_URL": "redis://:secret@h:port"}, "rill: RILL_REDIS_URL: it is not a URL like redis://host:6379/0"),
        ({"REDIS_URL": "redis://h:6379/0?socket_timeout=a"}, "rill: RILL_REDIS_URL: it is not a URL like "),
        ({"REDIS_URL": "redis://h:6379/x"}, "rill: RILL_REDIS_URL: it is not a URL like "),
        ({"REDIS_URL": "foo"}, "rill: RILL_REDIS_URL: it is not a URL like "),
        ({"STORE_PATH": "s", "REDIS_URL": "redis://r"}, "rill: RILL_STORE_PATH and RILL_REDIS_URL: "),
    ],
)
async def test_a_wrong_setting_is_one_line_and_status_2(settings: dict[str, str], said: str) -> None:
    """No traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        env={**os.environ, **{f"RILL_{name}": value for name, value in settings.items()}},
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith(said) and errors.count(b"\n") == 1


async def test_a_taken_port_is_one_line_and_status_2(launch: Launch) -> None:
    """Reported before anything is loaded."""
    service = await launch("obedient")
    port = service.url.rsplit(":", 1)[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, FRONT, "obedient", env={**os.environ, "RILL_PORT": port}, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == f"rill: can't listen on 127.0.0.1:{port}: Address already in use\n"


async def test_a_second_service_on_one_file(launch: Launch, tmp_path: Path) -> None:
    """One line and status 2; a killed service leaves the file free."""
    file = str(tmp_path / "streams.db")
    service = await launch("obedient", STORE_PATH=file)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, FRONT, "obedient"),
        env={**os.environ, "RILL_PORT": "0", "RILL_STORE_PATH": file},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == f"rill: RILL_STORE_PATH: {file}: another process has it open\n"
    await service.end(signal.SIGKILL)
    await (await launch("obedient", STORE_PATH=file)).ready()


async def test_a_full_disk(launch: Launch, tmp_path: Path) -> None:
    """A stream continues, is not durable, and is durable again when there is room; the file has all of it."""
    # A stream is durable again when a write leaves nothing to be written: a write takes less time than a token.
    service = await launch("patient", "--slow-s", "0.1", STORE_PATH=str(tmp_path / "streams.db"))
    await service.ready()

    async def becomes(durable: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                headers = {"Accept": "application/json"}
                async with service.client.get(f"/v1/streams/{id}", headers=headers) as receipt:
                    if (await receipt.json())["durable"] is durable:
                        return
                await asyncio.sleep(0.02)

    response = await service.client.get("/stream", params={"prompt": "x"})
    id = response.headers["X-Stream-Id"]
    await until(response, b'"text"')
    await becomes(durable=True)
    limit = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, limit[1]))
    await becomes(durable=False)
    for _ in range(20):
        await until(response, b'"text"')
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, limit)
    await becomes(durable=True)
