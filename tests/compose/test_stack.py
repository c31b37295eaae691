"""What `docker-compose up` provides, on real containers: nginx, the service with its starter, Prometheus."""

import asyncio
import contextlib
import json
import re
import statistics
from asyncio.subprocess import PIPE
from typing import Any

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are not among the locked packages

from tests.compose.conftest import Event, events, read_all, soon
from tests.compose.stack import ROOT, Stack, docker, run

pytestmark = pytest.mark.e2e

SECRET = "whisper-4821"
STORY = "Tell me a story about a fox"
STARTER = ROOT / "service" / "starter" / "rill-starter-q8_0.gguf"
N_TRIES = 20  # a stream takes 0.2 s: under load it may end before the second reader attaches

# Reads the stream with the id on standard input, from inside the replica's own container, past nginx; prints when each
# event arrived.
READER = """
import http.client, json, time
connection = http.client.HTTPConnection("127.0.0.1", 8000)
connection.connect()
print("ready", flush=True)
connection.request("GET", "/v1/streams/" + input(), headers={"Accept": "text/event-stream"})
response, at = connection.getresponse(), {}
assert response.status == 200, response.status
while line := response.readline():
    if line.startswith(b"id: "):
        at[line[4:].strip().decode()] = time.time()
print(json.dumps(at))
"""


def text_of(stream: list[Event]) -> str:
    return "".join(event.data["text"] for event in stream if event.name == "message")


def ends(stream: list[Event]) -> list[str]:
    return [event.name for event in stream if event.name in ("done", "failure")]


async def until_prometheus(
    stack: Stack, client: aiohttp.ClientSession, query: str, value: float, within_s: float = 60
) -> None:
    """Waits until the query's single value is this: there is a scrape every 5 s."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        result = await ask_prometheus(stack, client, query)
        seen = float(result[0]["value"][1]) if result else 0.0
        if seen == value:
            return
        assert asyncio.get_running_loop().time() < end, f"{query}: {seen}, not {value}"
        await asyncio.sleep(0.5)


async def ask_prometheus(stack: Stack, client: aiohttp.ClientSession, query: str) -> list[dict[str, Any]]:
    async with client.get(stack.prometheus + "/api/v1/query", params={"query": query}) as response:
        result: list[dict[str, Any]] = (await response.json())["data"]["result"]
        return result


async def test_the_service_becomes_healthy(stack: Stack) -> None:
    """The replica is healthy by its own health check and not published, and no setting is needed."""
    [service] = stack.containers("service")
    assert stack.healthy(service)
    assert not any(stack.inspect(service)["NetworkSettings"]["Ports"].values())


async def test_the_page(stack: Stack, client: aiohttp.ClientSession) -> None:
    """The page and every file that it names are served through nginx, with its security headers."""
    async with client.get(stack.url + "/") as response:
        page = await response.text()
        assert response.status == 200
        assert response.content_type == "text/html"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
        assert response.headers.getall("X-Content-Type-Options") == ["nosniff"]
        assert response.headers.getall("X-Frame-Options") == ["DENY"]
        assert response.headers.getall("Referrer-Policy") == ["no-referrer"]
    names = {part.split('"')[0] for mark in ('src="', 'href="') for part in page.split(mark)[1:]}
    assert names
    for name in names:
        async with client.get(f"{stack.url}/{name.removeprefix('/')}") as response:
            assert response.status == 200, name


async def test_a_stream_and_its_end(stack: Stack, client: aiohttp.ClientSession) -> None:
    """A prompt yields a text with exactly one end, and resuming its finished stream gets 204."""
    params = {"prompt": STORY, "max_tokens": "30"}
    async with client.get(stack.url + "/stream", params=params) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["X-Request-ID"]
        stream = await read_all(response)
    assert ends(stream) == ["done"]
    assert stream[-1].name == "done"
    assert text_of(stream)
    assert len({event.id for event in stream}) == len(stream)
    async with client.get(stack.url + "/stream", params=params, headers={"Last-Event-ID": stream[-1].id}) as response:
        assert response.status == 204


async def test_the_openai_route(stack: Stack, client: aiohttp.ClientSession) -> None:
    """POST /v1/chat/completions streams through nginx and ends in [DONE]."""
    body = {"model": "x", "messages": [{"role": "user", "content": STORY}], "stream": True, "max_tokens": 20}
    async with client.post(stack.url + "/v1/chat/completions", json=body) as response:
        assert response.status == 200
        text = await response.text()
    assert text.rstrip().endswith("data: [DONE]")


async def read_twice(
    stack: Stack, client: aiohttp.ClientSession, service: str
) -> tuple[dict[str, float], dict[str, float]]:
    """When each event of a new stream arrived at a reader through nginx, and at one inside that container, by event
    id."""
    params = {"prompt": STORY, "max_tokens": "400", "ignore_eos": "true"}
    through: dict[str, float] = {}
    reader = await asyncio.create_subprocess_exec(
        *("docker", "exec", "-i", service, "python", "-c", READER), stdin=PIPE, stdout=PIPE, env=stack.env
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    assert await reader.stdout.readline() == b"ready\n"
    async with client.get(stack.url + "/stream", params=params) as response:
        async for event in events(response):
            if not through:
                reader.stdin.write(event.id.partition(".")[0].encode() + b"\n")
            through[event.id] = event.at
    direct: dict[str, float] = json.loads(await reader.stdout.read())
    assert await reader.wait() == 0
    return through, direct


async def test_nginx_adds_no_delay_to_a_token(
    stack: Stack, client: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two readers of one stream, one through nginx and one inside the replica's container, see each event at the same
    time."""
    [service] = stack.containers("service")
    for _ in range(N_TRIES):
        through, direct = await read_twice(stack, client, service)
        joined_at = min(direct.values())
        late_ms = [1000 * (through[i] - at) for i, at in direct.items() if at > joined_at + 0.05]
        if len(late_ms) >= 20:
            break
    assert len(late_ms) >= 20, "the direct reader attached too late to compare"
    p95 = statistics.quantiles(late_ms, n=20)[-1]
    p50 = statistics.median(late_ms)
    with capsys.disabled():
        print(f"\n{len(late_ms)} events came later through nginx: p50 {p50:.2f} ms, p95 {p95:.2f} ms")
    assert p50 < 500  # a bound that holds on a busy machine too; the result is the printed figure


async def test_tokens_come_one_by_one(stack: Stack, client: aiohttp.ClientSession) -> None:
    """With pace=20, 40 tokens take two seconds through nginx as well: a buffer would deliver them together."""
    params = {"prompt": STORY, "max_tokens": "40", "pace": "20", "ignore_eos": "true"}
    async with client.get(stack.url + "/stream", params=params) as response:
        times = [event.at async for event in events(response) if event.name == "message"]
    assert len(set(times)) > 30
    assert times[-1] - times[0] > 1.5


async def test_64_streams_at_once(stack: Stack, client: aiohttp.ClientSession) -> None:
    """64 streams through nginx from one address each get exactly one end."""
    client.connector._limit = 0  # type: ignore[union-attr]

    async def one(n: int) -> list[str]:
        params = {"prompt": f"Count to {n}", "max_tokens": "16"}
        async with client.get(stack.url + "/stream", params=params) as response:
            assert response.status == 200
            return ends(await read_all(response))

    assert await asyncio.gather(*(one(n) for n in range(64))) == [["done"]] * 64


async def test_metrics_are_for_prometheus_only(stack: Stack, client: aiohttp.ClientSession) -> None:
    """nginx refuses /metrics; Prometheus finds the replica, and its counters grow by exactly what was sent."""
    async with client.get(stack.url + "/metrics") as response:
        assert response.status == 404
        assert "llm_" not in await response.text()

    await until_prometheus(stack, client, 'sum(up{job="rill"})', 1)
    [service] = stack.containers("service")
    queries = ('sum(llm_requests_total{route="/stream"})', 'sum(llm_tokens_total{direction="out"})')

    def own() -> tuple[float, float]:
        metrics = stack.metrics(service)
        requests = sum(v for k, v in metrics.items() if k.startswith("llm_requests_total") and 'route="/stream"' in k)
        return requests, metrics['llm_tokens_total{direction="out"}']

    before = own()
    for _ in range(5):
        params = {"prompt": STORY, "max_tokens": "7", "ignore_eos": "true"}
        async with client.get(stack.url + "/stream", params=params) as response:
            assert ends(await read_all(response)) == ["done"]
    for query, value, sent in zip(queries, before, (5, 35), strict=True):
        await until_prometheus(stack, client, query, value + sent)


async def test_three_replicas(stack: Stack, client: aiohttp.ClientSession) -> None:
    """With `--scale service=3` while nginx runs, streams are spread evenly, by each replica's metrics and Prometheus;
    scaled back, an open stream on a remaining replica continues, and new ones are served."""
    await asyncio.to_thread(stack.scale, 3)
    replicas = stack.containers("service")
    assert len(replicas) == 3
    series = 'llm_requests_total{outcome="length",route="/stream"}'
    before = {container: stack.metrics(container)[series] for container in replicas}
    seen = len(stack.access)
    params = {"prompt": STORY, "max_tokens": "40", "pace": "20", "ignore_eos": "true"}

    async def one() -> list[str]:
        async with client.get(stack.url + "/stream", params=params) as response:
            return ends(await read_all(response))

    assert await asyncio.gather(*(one() for _ in range(12))) == [["done"]] * 12
    lines = [line for line in stack.access[seen:] if line["path"] == "/stream"]
    upstreams = [line["upstream"] for line in lines]
    assert {a: upstreams.count(a) for a in stack.addresses()} == dict.fromkeys(stack.addresses(), 4)
    assert {container: stack.metrics(container)[series] - before[container] for container in replicas} == dict.fromkeys(
        replicas, 4
    )

    await until_prometheus(stack, client, 'sum(up{job="rill"})', 3)
    await asyncio.to_thread(stack.scale, 1)
    for _ in range(3):
        assert await one() == ["done"]


async def test_a_key_leads_to_its_replica_among_three(stack: Stack, client: aiohttp.ClientSession) -> None:
    """With three replicas a reader that lost its connection continues where it stopped: key= routes it to the same
    replica."""
    await asyncio.to_thread(stack.scale, 3)
    try:
        for n in range(6):
            key = f"00000000-0000-4000-8000-00000000000{n}"
            params = {"prompt": STORY, "max_tokens": "20", "pace": "40", "ignore_eos": "true", "key": key}
            first: list[Event] = []
            async with client.get(stack.url + "/stream", params=params) as response:
                async for event in events(response):
                    first.append(event)
                    if event.name == "message" and len(first) > 5:
                        break
            headers = {"Last-Event-ID": first[-1].id}
            async with client.get(stack.url + "/stream", params=params, headers=headers) as response:
                rest = await read_all(response)
            assert ends(rest) == ["done"]
            ids = [event.id for event in first + rest]
            stream = ids[0].partition(".")[0]
            assert [id.rpartition(".")[0] for id in ids] == [f"{stream}.{i}" for i in range(len(ids))]
    finally:
        await asyncio.to_thread(stack.scale, 1)


async def test_a_killed_replica_is_an_error(stack: Stack, client: aiohttp.ClientSession) -> None:
    """kill -9 of the service's container in mid-stream never looks like the end of the stream; while no replica serves,
    a reader that reconnects is asked to retry; when the replica is back, so is the service."""
    [service] = stack.containers("service")
    params = {"prompt": STORY, "max_tokens": "200", "pace": "10", "ignore_eos": "true"}
    async with client.get(stack.url + "/stream", params=params) as response:
        seen: list[Event] = []
        with pytest.raises(aiohttp.ClientPayloadError):
            async for event in events(response):
                seen.append(event)
                if len(seen) == 6:
                    await asyncio.to_thread(docker, "kill", "-s", "KILL", service)
        assert ends(seen) == []
    async with client.get(stack.url + "/stream", headers={"Last-Event-ID": seen[-1].id}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert (await response.text()).startswith("retry: ")
    async with client.post(stack.url + "/v1/completions", json={"prompt": "a"}) as response:
        # Until its address is forgotten or known to be unused, connecting to it takes too long.
        told = response.status, (await response.json())["error"]["code"]
        assert told in ((502, "service_unreachable"), (504, "service_timeout"))
    await asyncio.to_thread(docker, "start", service)
    await soon(lambda: stack.healthy(service))
    await soon(lambda: stack.known_replicas() == stack.addresses())
    async with client.get(stack.url + "/stream", params={"prompt": STORY, "max_tokens": "5"}) as response:
        assert ends(await read_all(response)) == ["done"]


async def test_a_stop_lets_streams_end(stack: Stack, client: aiohttp.ClientSession) -> None:
    """docker stop: the open stream is sent to its end, and the container exits with 0 within its grace period."""
    [service] = stack.containers("service")
    params = {"prompt": STORY, "max_tokens": "40", "pace": "20", "ignore_eos": "true"}
    stop = None
    async with client.get(stack.url + "/stream", params=params) as response:
        stream: list[Event] = []
        async for event in events(response):
            stream.append(event)
            if len(stream) == 6:
                stop = asyncio.create_task(asyncio.to_thread(docker, "stop", "-t", "40", service))
    assert ends(stream) == ["done"]
    assert stop is not None
    await stop
    assert stack.inspect(service)["State"]["ExitCode"] == 0
    await asyncio.to_thread(docker, "start", service)
    await soon(lambda: stack.healthy(service))
    await soon(lambda: stack.known_replicas() == stack.addresses())


async def test_no_prompt_is_in_any_log(stack: Stack, client: aiohttp.ClientSession) -> None:
    """Neither nginx nor the service prints any of a prompt, by whatever route it came, served or refused."""
    for path in ("/stream", "/v1/completions", "/nowhere", "/v1/streams/x"):
        for method in ("GET", "POST"):
            body = {"prompt": SECRET, "messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
            url = f"{stack.url}{path}?prompt={SECRET}&max_tokens=2"
            async with client.request(method, url, json=body if method == "POST" else None) as response:
                await response.read()
    with contextlib.suppress(aiohttp.ClientError):
        async with client.get(f"{stack.url}/stream?prompt={SECRET}{'x' * 9000}") as response:
            assert response.status == 414
    logged = stack.logs("nginx") + stack.logs("service")
    assert '"path":"/stream"' in logged
    assert SECRET not in logged


async def test_a_custom_model(stack: Stack) -> None:
    """deploy/put-model copies a file into the volume `models`, owned by the service's user; the settings that it prints
    serve the model; a file name that does not exist is an error."""
    program = str(ROOT / "deploy" / "put-model")
    said = await asyncio.to_thread(run, program, str(STARTER), "-p", stack.project, env=stack.env)
    settings = re.findall(r"(RILL_\w+=\S+)", said)
    assert [setting.partition("=")[0] for setting in settings] == ["RILL_MODEL", "RILL_MODEL_SHA256"]
    script = (
        "python -m service & "
        "until python -c \"import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz')\" 2>/dev/null; do "
        "kill -0 $! || exit 1; done; "
        "python -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())\""
    )

    def up(*settings: str) -> bool:
        own = [part for setting in settings for part in ("-e", setting)]
        options = ["--rm", "--no-deps", "-T", *own, "--entrypoint", "sh"]
        return "\nllm_engine_up 1" in stack.compose("run", *options, "service", "-c", script)

    assert await asyncio.to_thread(up, *settings)
    with pytest.raises(AssertionError):
        await asyncio.to_thread(up, "RILL_MODEL=/models/missing.gguf")


async def test_the_printed_address_can_be_opened(stack: Stack, client: aiohttp.ClientSession) -> None:
    """The replica's banner has the address that nginx publishes, and not the port inside its container."""
    printed = set(re.findall(r"http://[^/']+", stack.logs("service")))
    assert printed == {stack.url}
    async with client.get(printed.pop()) as response:
        assert response.status == 200


async def test_wrong_settings_are_reported_at_once(stack: Stack) -> None:
    """`up -d` ends with an error, not after ten minutes of restarts, and both the log and the health check have the
    line."""
    own = Stack(f"{stack.project}wrong", stack.env | {"RILL_N_SEQ": "0", "RILL_PUBLISH": "127.0.0.1:0"}, 0, 0, 0)
    try:
        with pytest.raises(AssertionError, match="unhealthy"):
            await asyncio.to_thread(own.compose, "up", "-d", "nginx")
        [service] = own.containers("service")
        state = own.inspect(service)
        assert (state["RestartCount"], state["State"]["Health"]["Status"]) == (0, "unhealthy")
        assert own.logs("service").startswith("rill: RILL_N_SEQ: ")
        assert state["State"]["Health"]["Log"][-1]["Output"].startswith("RILL_N_SEQ: ")
    finally:
        own.compose("down", "-v", "-t", "1")


@pytest.mark.parametrize("name", ["nginx", "service", "prometheus"])
async def test_a_container_is_restricted(name: str, stack: Stack) -> None:
    """Not root, no capability, no new privileges, a read-only root file system; only /tmp, and /models for the service,
    are writable."""
    [container] = stack.containers(name)
    pids = docker("exec", container, "sh", "-c", "grep -l . /proc/[0-9]*/status").split()
    status = docker("exec", container, "cat", "/proc/1/status")
    fields = {k: v.split() for k, _, v in (line.partition(":") for line in status.splitlines())}
    assert pids
    assert "0" not in fields["Uid"]
    assert fields["CapEff"] == fields["CapPrm"] == ["0000000000000000"]
    assert fields["NoNewPrivs"] == ["1"]
    places = ["/", "/etc", "/usr/bin", "/tmp", "/models", "/app"]
    test = "; ".join(f"touch {p}/x 2>/dev/null && rm {p}/x && echo {p}" for p in places)
    writable = docker("exec", container, "sh", "-c", f"{test}; true").split()
    assert writable == (["/tmp", "/models"] if name == "service" else ["/tmp"])


async def test_the_image_has_no_build_tools(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The environment has no compiler, no pip and no diskcache; the loaded CPU library is the best of several."""
    [service] = stack.containers("service")
    tools = docker("exec", service, "sh", "-c", "command -v g++ gcc cc cmake ninja; ls /opt/rill/bin; true").split()
    assert not {"g++", "gcc", "cc", "cmake", "ninja", "pip"} & {tool.rpartition("/")[2] for tool in tools}
    assert stack.python(service, "import importlib.util as i, llama_cpp; print(i.find_spec('diskcache'))") == "None\n"
    variants = docker("exec", service, "ls", "/opt/rill/ggml").split()
    assert {"libggml-cpu-x64.so", "libggml-cpu-haswell.so", "libggml-cpu-cooperlake.so"} <= set(variants)
    size = int(docker("image", "inspect", "rill-test", "--format", "{{.Size}}"))
    base = int(docker("image", "inspect", "python:3.13-slim", "--format", "{{.Size}}"))
    with capsys.disabled():
        print(f"\nthe image is {(size - base) / 1e6:.0f} MB over its base")
    assert size - base < 250e6


async def test_the_engine_runs_on_a_cpu_with_only_avx2(stack: Stack) -> None:
    """Without the libraries for better processors the engine loads the one for AVX2 and generates tokens."""
    script = (
        "cd /opt/rill/ggml && ls | grep -v haswell | xargs rm && cd /app && "
        "python -m service.engine --max-tokens 5 --temperature 0"
    )
    assert docker("run", "--rm", "-u", "0", "--entrypoint", "sh", "rill-test", "-c", script).strip()


async def test_compose_takes_the_gpu_override(stack: Stack) -> None:
    """docker-compose merges it: the CUDA image, one NVIDIA GPU, and everything else unchanged."""
    plain, gpu = (
        yaml.safe_load(stack.compose(*files, "config"))["services"]
        for files in ([], ["-f", "docker-compose.yml", "-f", "deploy/compose.gpu.yml"])
    )
    assert gpu["service"]["build"].pop("args") == {"CUDA": "12.8.1"}
    assert gpu["service"].pop("image") == "rill:cuda"
    [device] = gpu["service"].pop("deploy")["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert plain["service"].pop("image") == "rill-test"
    for services in (plain, gpu):
        for service in services.values():
            for name in ("volumes", "cap_add", "networks"):  # the order of a merge is unspecified
                service[name] = sorted(service.get(name) or ())
    assert gpu == plain
