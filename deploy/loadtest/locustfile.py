"""Locust's side: its options, its users, and a stream's figures as rows of its tables, pages and CSV files.

    locust -f deploy/loadtest/locustfile.py --host http://127.0.0.1:8000     then http://localhost:8089

Each user is a closed loop: it asks, reads to the end, and asks again (if it was refused, after Retry-After). With
--rate it is an open one: its requests leave when they are due, whether or not those before were answered.

A row's type says what it counts, in milliseconds unless it says otherwise:

    TTFT      from when the request was due to its first token
    ITL       each gap between two deltas
    stream    from when it was due to its end; a failure is a stream that was not done, and says how it ended
    outcome   the same by how it ended: done, refused 429, failure, cut, no connection
    tok/s     tokens a second (not milliseconds) of each stream that was done, from its first token on
    late      open loop: requests that left more than LATE_S after they were due, and by how much
    unsent    open loop: requests that did not leave at all, for --max-open were open
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Pool
from locust import User, events

from deploy.loadtest.orders import PATHS, Arrivals, Orders, Range
from deploy.loadtest.reading import read
from deploy.loadtest.streams import Stream

LATE_S = 0.1


class NotDone(Exception):
    """How a stream ended that was not done, for Locust's list of failures."""


def options(parser: Any) -> None:
    """Each can be set on the command line, in the environment, and on the web page before a test."""

    def add(name: str, default: Any, help: str, type: Callable[[str], Any] = str, **more: Any) -> None:
        env = f"LOADTEST_{name.replace('-', '_').upper()}"
        parser.add_argument(f"--{name}", type=type, default=default, env_var=env, help=help, **more)

    add("api", "chat", "the route: chat is /v1/chat/completions", choices=sorted(PATHS))
    add("rate", 0.0, "open loop: requests a second of each user; 0: closed loop", float)
    add("max-open", 1000, "open loop: requests of each user that may be open", int)
    add("think-s", 0.0, "closed loop: seconds between an answer and the next request", float)
    add("prompt-words", "8-64", "range of the prompts' lengths")
    add("answer-tokens", "16-128", "range of the answers' longest lengths")
    add("shared", 0.0, "share of the prompts that begin alike, 0 to 1", float)
    add("shared-words", 400, "how many words these have in common", int)
    add("temperature", 0.8, "0: greedy", float)
    add("ignore-eos", "no", "yes: answers are as long as they may be", choices=["no", "yes"])
    add("api-key", "", "sent as a Bearer token", is_secret=True)
    add("silence-s", 120.0, "seconds without a byte after which a stream counts as cut", float)


def orders(given: argparse.Namespace) -> Orders:
    return Orders(
        api=given.api,
        prompt_words=Range.parse(given.prompt_words),
        max_tokens=Range.parse(given.answer_tokens),
        shared=given.shared,
        shared_words=given.shared_words,
        temperature=given.temperature,
        ignore_eos=given.ignore_eos == "yes",
    )


class Reader(User):  # type: ignore[misc]  # locust is not installed where mypy runs: pyproject.toml
    """Somebody who asks and reads, in a closed or an open loop."""

    host = "http://127.0.0.1:8000"

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._given = environment.parsed_options
        self._orders = orders(self._given)
        self._rng = random.Random()
        self._open = Pool(self._given.max_open)
        self._arrivals: Arrivals | None = None

    def on_start(self) -> None:
        if self._given.rate > 0:
            self._arrivals = Arrivals(self._given.rate, time.perf_counter(), self._rng)

    def on_stop(self) -> None:
        """What is open has as long as Locust gives (--stop-timeout), as in a closed loop."""
        self._open.join(timeout=self.environment.stop_timeout)
        self._open.kill(block=False)

    def turn(self) -> None:
        """One request and its answer, or one request that is due."""
        if self._arrivals is None:
            stream = self._read(time.perf_counter())
            gevent.sleep(max(self._given.think_s, stream.retry_after_s))
            return
        due = self._arrivals.next()
        gevent.sleep(max(0.0, due - time.perf_counter()))
        if (late_s := time.perf_counter() - due) > LATE_S:
            self._tell("late", late_s)
        if self._open.full():
            self._tell("unsent", 0.0, error=f"{self._given.max_open} are open")
        else:
            self._open.spawn(self._read, due)

    tasks = (turn,)

    def _read(self, due: float) -> Stream:
        stream = Stream(began=due)
        read(
            self.host,
            self._orders.path,
            self._orders.draw(self._rng),
            stream,
            api_key=self._given.api_key,
            timeout_s=self._given.silence_s,
        )
        took_s = time.perf_counter() - due
        if stream.ttft_s is not None:
            self._tell("TTFT", stream.ttft_s)
        for gap_s in stream.gaps_s:
            self._tell("ITL", gap_s)
        if stream.is_done and stream.tokens_per_s is not None:
            self._tell("tok/s", stream.tokens_per_s / 1000)
        self._tell("stream", took_s, error="" if stream.is_done else stream.outcome, n_bytes=stream.n_bytes)
        self._tell("outcome", took_s, name=stream.outcome)
        return stream

    def _tell(self, kind: str, seconds: float, *, name: str = "", error: str = "", n_bytes: int = 0) -> None:
        """One more of a row; Locust counts in milliseconds."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name or self._orders.path,
            response_time=1000 * seconds,
            response_length=n_bytes,
            exception=NotDone(error) if error else None,
            context={},
        )


events.init_command_line_parser.add_listener(options)
