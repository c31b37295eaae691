"""What is measured of a server: each function makes its load, waits for its end, and returns its figures by name.

A name says what is counted, of what and in which unit; the table shows the names as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from statistics import mean, median

from tests.bench.load import Answer, Ask, Run, checked, client, closed_loop, quantile, stream

Figures = dict[str, float]
Measure = Callable[[str, str], Awaitable[Figures]]  # of the server at a URL, with the salt of the round's prompts

RUN_S = 900.0  # a run that takes longer has failed

N_LONG_WORDS = 1500
N_LONG = 3  # such prompts, one after the other
N_RUNNING = 4
RUNNING = Ask(n_tokens=2000)  # outlasts the long prompts; should it end, the next one follows

READING = 10.0  # tokens/s
FIRST_S = 2.0  # a reader who waits longer for the first token is not served
SLACK_S = 0.25  # two and a half tokens at this speed: who reads does not notice


def n_waves(n_streams: int) -> int:
    """How often so many streams are tried: a single one is over too soon to be measured once."""
    return max(1, 4 // n_streams)


def tokens_per_s(n_streams: int, temperature: float = 0.0) -> Measure:
    """Of so many clients who ask again and again; if greedy, also how long they wait for a first token."""

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
    """The seconds that the engine alone takes for the same prompts and tokens ÷ those that the server takes."""
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
    """Sixteen that come at once and whose prompts begin alike; their answers are short, so that reading counts."""
    async with client(url) as session, asyncio.timeout(RUN_S):
        run = checked(await closed_loop(session, Ask(n_words=400, n_tokens=16, n_shared=380), 16, 16, f"{salt} shared"))
    return {
        "16 at once, 380 of 400 words shared: wall, s": run.wall_s,
        "16 at once, 380 of 400 words shared: TTFT p95, s": quantile(run.ttfts_s, 0.95),
    }


async def beside_long_prompts(url: str, salt: str) -> Figures:
    """What running streams notice of long prompts that arrive, and how long these wait."""
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
        f"{prompt} beside {N_RUNNING} streams: TTFT p50, s": median(long.ttfts_s),
    }


def gaps_between(times: list[float], began: float, ended: float) -> list[float]:
    """The gaps of which any part lies between these moments."""
    return [after - before for before, after in pairwise(times) if after > began and before < ended]


def readers_served(n_readers: int, n_tokens: int, pace: float | None) -> Measure:
    """How many of so many readers who arrive together can read at their speed, from soon on and without a pause."""

    async def measure(url: str, salt: str) -> Figures:
        ask = Ask(n_words=8, n_tokens=n_tokens, pace=pace)
        async with client(url) as session, asyncio.timeout(RUN_S):
            run = await closed_loop(session, ask, n_readers, n_readers, f"{salt} pace {pace}")
        how = "without pace" if pace is None else f"pace={pace:g}"
        name = f"of {n_readers} readers at {READING:g} tok/s, served in time ({how})"
        return {name: float(sum(is_served(answer, READING) for answer in run.answers))}

    return measure


def is_served(answer: Answer, rate: float) -> bool:
    """Whether somebody who reads `rate` tokens/s had soon something to read, and never had to wait then.

    A delta may be of several tokens, and what is known is how many there are too many in all: each delta is taken to
    hold those, which is at most their reading time too kind.
    """
    if answer.error or answer.ttft_s > FIRST_S:
        return False
    more = answer.n_tokens - len(answer.times)
    return all(time <= answer.times[0] + (i + more) / rate + SLACK_S for i, time in enumerate(answer.times))


def greedy(n_streams: int) -> str:
    """The name of the figure that the engine alone has too."""
    return f"tok/s, {streams(n_streams)}, greedy"


def streams(n: int) -> str:
    return f"{n} stream{'s' * (n > 1)}"


async def warm_up(url: str) -> int:
    """Some streams that are not counted, for the first touches what is made once; how many tokens a prompt has."""
    async with client(url) as session, asyncio.timeout(RUN_S):
        run = checked(await closed_loop(session, Ask(n_tokens=2), 1, 4, "warm"))
    return round(mean(answer.n_prompt for answer in run.answers))
