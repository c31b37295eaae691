"""The load client counts arrivals, their times, and what did not arrive."""

from __future__ import annotations

import pytest

from service.errors import NotReady
from tests.bench.load import Answer, Ask, Failed, Run, checked, client, closed_loop, quantile, stream
from tests.conftest import Serve
from tests.fakes import STORY


async def test_a_closed_loop(serve: Serve) -> None:
    """All requests are made, at most n_streams at a time, and each answer's tokens and times are recorded."""
    service = await serve()
    async with client(service.url) as session:
        run = checked(await closed_loop(session, Ask(), 2, 5, "salt"))
    assert [len(answer.times) for answer in run.answers] == 5 * [len(STORY)]
    assert [answer.n_tokens for answer in run.answers] == 5 * [len(STORY)]
    assert run.tokens_per_s == pytest.approx(5 * len(STORY) / run.wall_s)
    assert all(0 < answer.ttft_s <= run.wall_s and min(answer.gaps_s) >= 0 for answer in run.answers)


async def test_a_refusal_is_no_answer(serve: Serve) -> None:
    """A refused request records the reason as its error, and a run with one is not compared with others."""
    service = await serve(starts_ready=False)
    answer = Answer()
    async with client(service.url) as session:
        await stream(session, Ask().body("salt", 0), answer)
    assert answer.answering.is_set()
    assert answer.error.startswith(str(NotReady.status))
    with pytest.raises(Failed, match=r"1 of 2 requests failed: 503"):
        checked(Run([Answer(), answer], 1.0))


def test_a_failure_in_the_stream_is_no_answer() -> None:
    """An error after tokens counts as a failure."""
    answer = Answer()
    for line in (b'data: {"choices": [{"text": "a"}]}\n', b'data: {"error": {"code": "engine_crash"}}\n', b"\n"):
        answer.take(line)
    assert (len(answer.times), "engine_crash" in answer.error) == (1, True)


def test_what_is_not_a_token_has_no_time() -> None:
    """Ids, heartbeats, empty texts and the end are not deltas."""
    answer = Answer()
    for line in (b"id: 1.0\n", b": hb\n", b'data: {"choices": [{"text": ""}]}\n', b"data: [DONE]\n", b"\n"):
        answer.take(line)
    assert (answer.times, answer.error) == ([], "")


def test_prompts_differ_from_run_to_run() -> None:
    """The same salt and number give the same prompt; others share no more than the common prefix."""
    ask = Ask(n_words=40, n_shared=30)
    one, other = ask.prompt("a", 0).split(), ask.prompt("a", 1).split()
    assert one == ask.prompt("a", 0).split()
    assert (len(one), one[:30], one[30:] != other[30:]) == (40, other[:30], True)
    assert ask.prompt("b", 0).split()[:30] != one[:30]


def test_quantiles() -> None:
    """The nearest rank, up to the largest."""
    values = [float(i) for i in range(100, 0, -1)]
    assert [quantile(values, p) for p in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
