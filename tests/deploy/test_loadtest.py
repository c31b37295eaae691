"""The load tester counts what it received and how streams ended. Locust is its edge, and not installed here."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are not among the locked packages

from deploy.loadtest.orders import Arrivals, Orders, Range
from deploy.loadtest.reading import read
from deploy.loadtest.streams import Stream
from service.errors import NotReady
from tests.compose.stack import free_port
from tests.conftest import Serve
from tests.fakes import STORY

ROOT = Path(__file__).parents[2]

NATIVE = (
    b"retry: 2000\nid: a.0.0\nevent: status\n" + b'data: {"phase":"thinking","position":0}\n\n'
    b'id: a.1.1\ndata: {"text":"Once"}\n\n: hb\nid: a.2.2\ndata: {"text":" upon"}\n\n'
    b'id: a.3.3\nevent: done\ndata: {"finish_reason":"stop","usage":{"completion_tokens":3}}\n\n'
)
CHAT = (
    b'id: a.0.0\ndata: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}\n\n'
    b'data: {"choices":[{"delta":{"content":"Once"}}]}\r\n\r\ndata: {"choices":[{"delta":{"content":" upon"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
)


def fed(raw: bytes, size: int) -> Stream:
    """A stream received in pieces of `size` bytes, one every tenth of a second."""
    stream = Stream(began=1.0)
    for i in range(0, len(raw), size):
        stream.feed(raw[i : i + size], 2.0 + i / size / 10)
    return stream


@pytest.mark.parametrize("raw", [NATIVE, CHAT])
@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_streams_of_both_dialects(raw: bytes, size: int) -> None:
    """Wherever the bytes are cut there are two deltas, three tokens and done."""
    stream = fed(raw, size)
    assert (len(stream.times), stream.n_tokens, stream.outcome, stream.n_bytes) == (2, 3, "done", len(raw))


def test_figures() -> None:
    """TTFT is from the request to the first delta, ITL between deltas, tok/s from the first token to the last."""
    stream = Stream(began=1.0, times=[1.5, 1.6, 2.0], n_tokens=6)
    assert stream.ttft_s == 0.5
    assert stream.gaps_s == pytest.approx([0.1, 0.4])
    assert stream.tokens_per_s == pytest.approx(10.0)


@pytest.mark.parametrize("times", [[], [2.0], [2.0, 2.0], [2.0, 2.0001]])
def test_too_few_tokens_have_no_speed(times: list[float]) -> None:
    """Where no time passed between tokens, or almost none, there is no speed."""
    assert Stream(began=1.0, times=times, n_tokens=len(times)).tokens_per_s is None


@pytest.mark.parametrize("raw", [NATIVE, CHAT])
def test_an_end_in_the_middle(raw: bytes) -> None:
    """A connection that ends before the stream's end counts as cut, whatever was received."""
    assert fed(raw[: raw.rindex(b"data: ")], 64).outcome == "cut"


def test_failures_are_counted_by_code() -> None:
    """A failure after tokens counts, in both dialects; the tokens before it count too."""
    body = b'data: {"error":{"code":"engine_crash","message":"no"}}\n\n'
    for before in (b'data: {"text":"a"}\n\nid: a.9.9\nevent: failure\n', b'data: {"choices":[{"text":"a"}]}\n\n'):
        stream = fed(before + body, 5)
        assert (len(stream.times), stream.outcome) == (1, "failure engine_crash")


def test_refusals_have_status_code_and_time() -> None:
    """Our refusals have a code, a proxy's page has none; Retry-After may be missing or a date."""
    stream = Stream(began=0.0)
    stream.refuse(429, b'{"error":{"code":"queue_full"}}', "3")
    assert (stream.outcome, stream.retry_after_s) == ("refused 429 queue_full", 3.0)
    for value in (None, "Wed, 21 Oct 2026 07:28:00 GMT"):
        stream.refuse(502, b"<html>", value)
        assert (stream.outcome, stream.retry_after_s) == ("refused 502", 0.0)


def test_ranges() -> None:
    """Both ends can be drawn; one number is a range too; anything else is refused."""
    assert {Range.parse("2-4").draw(random.Random(i)) for i in range(50)} == {2, 3, 4}
    assert Range.parse("7") == Range(7, 7)
    for words in ("0-3", "5-2", "many", "-3"):
        with pytest.raises(ValueError):
            Range.parse(words)


@pytest.mark.parametrize("api", ["chat", "stream"])
def test_a_share_of_prompts_has_a_common_prefix(api: str) -> None:
    """This share of the prompts has the same system prompt, of the given number of words, followed by different
    words."""
    orders, rng = Orders(api=api, shared=0.3, shared_words=50), random.Random(1)
    drawn = [json.dumps(orders.draw(rng)) for _ in range(1000)]
    system = [re.search(r'"system": "([a-z ]+)"|"system", "content": "([a-z ]+)"', body) for body in drawn]
    texts = {found[1] or found[2] for found in system if found}
    assert (len(texts), len(texts.pop().split())) == (1, 50)
    assert 250 < sum(found is not None for found in system) < 350
    assert len(set(drawn)) == 1000


def test_lengths_are_drawn() -> None:
    """The lengths of prompts and answers are within their ranges."""
    orders, rng = Orders(prompt_words=Range(3, 5), max_tokens=Range(10, 12)), random.Random(1)
    drawn: list[dict[str, Any]] = [orders.draw(rng) for _ in range(100)]
    words = {len(body["messages"][-1]["content"].removeprefix("Tell me a story about ").split()) for body in drawn}
    assert (words, {body["max_tokens"] for body in drawn}) == ({3, 4, 5}, {10, 11, 12})


def test_arrivals_are_a_poisson_process() -> None:
    """The rate is as requested and arrivals are independent: the deviation of the gaps is their mean."""
    arrivals = Arrivals(20.0, 100.0, random.Random(1))
    moments = [arrivals.next() for _ in range(20_000)]
    gaps = [b - a for a, b in zip([100.0, *moments], moments, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.05)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.05)


async def asked(url: str, orders: Orders, **options: Any) -> Stream:
    stream = Stream(began=0.0)
    await asyncio.to_thread(read, url, orders.path, orders.draw(random.Random(1)), stream, **options)
    return stream


@pytest.mark.parametrize("api", ["chat", "stream"])
async def test_against_the_service(serve: Serve, api: str) -> None:
    """The service accepts its requests, and its streams are read to their ends, with as many tokens as the service
    counts."""
    service = await serve()
    stream = await asked(service.url, Orders(api=api, shared=1.0, shared_words=5))
    assert (stream.outcome, len(stream.times), stream.n_tokens) == ("done", len(STORY), len(STORY))


async def test_the_key_is_sent(serve: Serve) -> None:
    """With the API key it is accepted; without one the error is reported."""
    service = await serve(api_keys="secret")
    assert (await asked(service.url, Orders(), api_key="secret")).is_done
    assert (await asked(service.url, Orders())).outcome == "refused 401 invalid_api_key"


async def test_refused_and_unreachable(serve: Serve) -> None:
    """A service that is not ready and one that can't be reached are different ends."""
    service = await serve(starts_ready=False)
    refused = await asked(service.url, Orders())
    assert refused.outcome == f"refused {NotReady.status} {NotReady.code}"
    assert refused.retry_after_s > 0
    assert (await asked(f"http://127.0.0.1:{free_port()}", Orders())).outcome.startswith("no connection")


async def test_a_service_that_falls_silent(serve: Serve) -> None:
    """Silence longer than allowed counts as a cut: no client waits for ever."""
    service = await serve(by_hand=True)
    assert (await asked(service.url, Orders(), timeout_s=0.2)).outcome == "cut"


def test_compose_passes_every_option() -> None:
    """Each option of the locustfile can be set in docker compose's environment, as the file says."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    passed = {line for line in compose["services"]["loadtest"]["environment"] if line.startswith("LOADTEST_")}
    names = re.findall(r'add\("([a-z-]+)"', (ROOT / "deploy" / "loadtest" / "locustfile.py").read_text())
    assert len(names) > 10
    assert passed == {f"LOADTEST_{name.replace('-', '_').upper()}" for name in names}


def test_only_the_edge_imports_locust() -> None:
    """The counting code can be tested without it."""
    files = (ROOT / "deploy" / "loadtest").glob("*.py")
    assert [
        file.name for file in files if re.search(r"import (locust|gevent)|from (locust|gevent)", file.read_text())
    ] == ["locustfile.py"]
