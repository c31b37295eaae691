"""The metrics at /metrics, all kept in the front, so a scrape never waits for a decode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from service.logs import where
from service.metrics.engine import EngineSeries
from service.metrics.replication import LogSeries
from service.metrics.requests import LAG_S, RequestSeries
from service.protocol.frames import Ready, Step
from service.streams.stream import Stream

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second, unused series for each

log = logging.getLogger("service.metrics")

Given = ParamSpec("Given")
Count = Callable[Concatenate["Metrics", Given], None]


def harmless(count: Count[Given]) -> Count[Given]:
    """A metrics error must not end a stream."""

    @wraps(count)
    def counted(metrics: Metrics, /, *args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            count(metrics, *args, **kwargs)
        except Exception as e:
            log.error("unexpected error in the metrics", extra=where(e))

    return counted


class Metrics:
    """One registry's worth of series; the observer of registry.Streams and of replicator.Replication."""

    def __init__(self, *, version: str) -> None:
        self.registry = r = CollectorRegistry()
        self._requests = RequestSeries(r)
        self._engine = EngineSeries(r, version)
        self._log = LogSeries(r)
        self.gap = self._requests.gap  # once a token: no wrapper in between
        self.not_durable = self._log.not_durable
        self.running = Gauge(
            "llm_running", "Streams that the engine has started and that are not yet closed.", registry=r
        )
        self.waiting = Gauge("llm_waiting", "Admitted streams that the engine has not started yet.", registry=r)
        self.lag = Histogram(
            "llm_event_loop_lag_seconds",
            "Delay of the front's event loop: how late it woke up from a sleep of 0.25 s.",
            buckets=LAG_S,
            registry=r,
        )
        self.readers = Gauge("llm_readers", "HTTP responses currently attached to streams.", registry=r)
        self.streams = Gauge("llm_streams", "Streams admitted and not yet closed, running or waiting.", registry=r)
        self.attaches = Counter(
            "llm_stream_attaches",
            "Requests for an existing or former stream: attached, read (204: no events left) or lost.",
            ["outcome"],
            registry=r,
        )
        for outcome in ("attached", "read", "lost"):
            self.attaches.labels(outcome)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)

    def exposition(self) -> tuple[bytes, str]:
        """The same, and its Content-Type."""
        return self.text(), CONTENT_TYPE_LATEST

    # The supervisor's sink.

    @harmless
    def ready(self, ready: Ready) -> None:
        """The engine has loaded a model."""
        self._engine.ready(ready)

    @harmless
    def lost(self) -> None:
        """The engine died."""
        self._engine.lost()

    # The streams.

    @harmless
    def refused(self, route: str, outcome: str) -> None:
        """A request for a generation ended before it had a stream."""
        self._requests.refused(route, outcome)

    @harmless
    def step(self, step: Step) -> None:
        self._engine.step(step)

    @harmless
    def continued(self) -> None:
        self._engine.continued.inc()

    @harmless
    def closed(self, stream: Stream) -> None:
        """A stream's single close."""
        self._requests.closed(stream)

    # The store.

    @harmless
    def acknowledged(self, wait_s: float) -> None:
        self._log.acknowledged.observe(wait_s)

    @harmless
    def adopted(self) -> None:
        self._log.adopted.inc()

    @harmless
    def fenced(self) -> None:
        self._log.fenced.inc()
