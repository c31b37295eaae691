"""Series of the event log that outlives this process. One declaration a series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.metrics.histogram import GAP_S


class LogSeries:
    """The shared event log's latency and lag, and the streams that changed replicas."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.acknowledged = Histogram(
            "llm_log_write_seconds",
            "From the first event of a write to the shared log until the log has it. Readers wait for that, up to "
            "RILL_LOG_WAIT_MS.",
            buckets=GAP_S,
            registry=r,
        )
        self.not_durable = Gauge(
            "llm_streams_not_durable",
            "Live streams whose readers are ahead of the shared log, which is too slow or gone.",
            registry=r,
        )
        self.adopted = Counter("llm_streams_adopted", "Streams of dead replicas that went on here.", registry=r)
        self.fenced = Counter(
            "llm_streams_fenced", "Streams that another replica had taken over while this one was at them.", registry=r
        )
