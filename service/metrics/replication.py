"""Series of the event log that outlives this process. One declaration a series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.histogram import GAP_S


class LogSeries:
    """The shared event log's latency and lag, and the streams that changed replicas."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.acknowledged = Histogram(
            "llm_log_write_seconds",
            "Time from the first event of a write to the shared event log until it is acknowledged. Readers wait for "
            "that, up to RILL_LOG_WAIT_MS.",
            buckets=GAP_S,
            registry=r,
        )
        self.not_durable = Gauge(
            "llm_streams_not_durable",
            "Live streams with readers ahead of the shared event log, because it is too slow or unavailable.",
            registry=r,
        )
        self.adopted = Counter(
            "llm_streams_adopted", "Streams of dead replicas that were continued by this replica.", registry=r
        )
        self.fenced = Counter(
            "llm_streams_fenced",
            "Streams that another replica took over while this one was still running them.",
            registry=r,
        )
