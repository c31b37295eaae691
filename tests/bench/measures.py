"""The measurements of a server: each function creates its load, waits for its end, and returns its figures by name.

A name states the quantity, its conditions and its unit; the table shows the names unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import mean, median

from tests.bench.load import Answer, Ask, Run, checked, client, closed_loop, quantile, stream

Figures = dict[str, float]
Measure = Callable[[str, str], Awaitable[Figures]]  # of the server at a URL, with the salt of the round's prompts

RUN_S = 900.0  # a longer run counts as failed

N_LONG_WORDS = 1500
N_LONG = 3  # such prompts, one after another
N_RUNNING = 4
RUNNING = Ask(n_tokens=2000)  # outlasts the long prompts; if it ends, the next one starts

READING = 10.0  # tokens/s
FIRST_S = 2.0  # a reader that waits longer for the first token is not served in time
SLACK_S = 0.25  # two and a half tokens at this speed: a reader does not notice


def n_waves(n_streams: int) -> int:
    """How often this number of streams is measured: a single stream ends too soon to be measured only once."""
    return max(1, 4 // n_streams)


def tokens_per_s(n_streams: int, temperature: float = 0.0) -> Measure:
    """Throughput of n_streams clients that send one request after another; for greedy ones also TTFT."""

    async def measure(url: str, salt: str) -> Figures:
        n = n_streams * max(2, n_waves(n_streams))
        async with client(url) as session, asyncio.timeout(RUN_S):
            ask = Ask(temperature=temperature)
            run = checked(await closed_loop(session, ask, n_streams, n, f"{salt} {n_streams} at {temperature}"))
        if temperature:
            return {f"tok/s, {streams(n_streams)}, seeded": run.tokens_per_s}
        return {
            greedy(n_streams): run.tokens_per_s,
            f"TTFT p50, {streams(n_streams)}, s": median(run.ttfts_s),
        }

    return measure


def share_of_engine(n_streams: int, engine_s: float, temperature: float = 0.0) -> Measure:
    """The engine's own time for the same prompts and tokens ÷ the server's."""
    how = "seeded" if temperature else "greedy"

    async def measure(url: str, salt: str) -> Figures:
        walls_s = []
        async with client(url) as session, asyncio.timeout(RUN_S):
            for wave in range(n_waves(n_streams)):
                own = f"{salt} {n_streams} at {temperature} in wave {wave}"
                run = checked(await closed_loop(session, Ask(temperature=temperature), n_streams, n_streams, own))
                walls_s.append(run.wall_s)
        return {f"share of the engine's own speed, {streams(n_streams)}, {how}": engine_s / mean(walls_s)}

    return measure


async def shared_prefix(url: str, salt: str) -> Figures:
    """Sixteen concurrent requests with a shared prompt prefix; short answers, so that prefill dominates."""
    async with client(url) as session, asyncio.timeout(RUN_S):
        run = checked(await closed_loop(session, Ask(n_words=400, n_tokens=16, n_shared=380), 16, 16, f"{salt} shared"))
    return {
        "16 at once, 380 of 400 words shared: wall, s": run.wall_s,
        "16 at once, 380 of 400 words shared: TTFT p95, s": quantile(run.ttfts_s, 0.95),
    }


async def with_long_prompts(url: str, salt: str) -> Figures:
    """The effect of arriving long prompts on running streams, and how long these prompts wait."""
    answers: list[list[Answer]] = [[Answer()] for _ in range(N_RUNNING)]
    async with client(url) as session, asyncio.timeout(RUN_S):

        async def run(i: int) -> None:
            while not answers[i][-1].error:
                await stream(session, RUNNING.body(f"{salt} running {i}", len(answers[i])), answers[i][-1])
                answers[i].append(Answer())

        running = [asyncio.create_task(run(i)) for i in range(N_RUNNING)]
        await asyncio.gather(*[answer.answering.wait() for (answer, *_) in answers])
        long = checked(await closed_loop(session, Ask(N_LONG_WORDS, 16), 1, N_LONG, f"{salt} long"))
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    checked(Run([answer for own in answers for answer in own], 0.0))
    began, ended = long.answers[0].began, long.answers[-1].times[-1]
    gaps = [gap for own in answers for answer in own for gap in gaps_between(answer.times, began, ended)]
    prompt = f"{N_LONG_WORDS:,}-word prompt"
    return {
        f"{N_RUNNING} streams while {prompt}s arrive: ITL p99, s": quantile(gaps, 0.99),
        f"{prompt}, {N_RUNNING} streams running: TTFT p50, s": median(long.ttfts_s),
    }


def gaps_between(times: list[float], began: float, ended: float) -> list[float]:
    """The gaps that overlap this interval."""
    return [after - before for before, after in pairwise(times) if after > began and before < ended]


def readers_served(n_readers: int, n_tokens: int, pace: float | None) -> Measure:
    """How many of n_readers that arrive together can read at their speed, soon after the start and without a pause."""

    async def measure(url: str, salt: str) -> Figures:
        ask = Ask(n_words=8, n_tokens=n_tokens, pace=pace)
        async with client(url) as session, asyncio.timeout(RUN_S):
            run = await closed_loop(session, ask, n_readers, n_readers, f"{salt} pace {pace}")
        how = "without pace" if pace is None else f"pace={pace:g}"
        name = f"of {n_readers} readers at {READING:g} tok/s, served in time ({how})"
        return {name: float(sum(is_served(answer, READING) for answer in run.answers))}

    return measure


def is_served(answer: Answer, rate: float) -> bool:
    """Whether a reader of `rate` tokens/s soon had something to read, and never had to wait afterwards.

    A delta may have several tokens, and only the total surplus of tokens over deltas is known: each delta is credited
    with all of it, which errs in favour of the server by at most their reading time.
    """
    if answer.error or answer.ttft_s > FIRST_S:
        return False
    more = answer.n_tokens - len(answer.times)
    return all(time <= answer.times[0] + (i + more) / rate + SLACK_S for i, time in enumerate(answer.times))


def greedy(n_streams: int) -> str:
    """The name of the figure that is also measured of the engine alone."""
    return f"tok/s, {streams(n_streams)}, greedy"


def streams(n: int) -> str:
    return f"{n} stream{'s' * (n > 1)}"


async def warm_up(url: str) -> int:
    """Uncounted streams that warm the server up; returns how many tokens a prompt has."""
    async with client(url) as session, asyncio.timeout(RUN_S):
        run = checked(await closed_loop(session, Ask(n_tokens=2), 1, 4, "warm"))
    return round(mean(answer.n_prompt for answer in run.answers))
