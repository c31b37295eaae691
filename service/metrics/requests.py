"""Series of requests: their outcomes, latencies and tokens. One declaration a series.

Names follow OpenTelemetry's GenAI conventions in Prometheus form where they have one, and llm_* otherwise. Labels
come from closed sets of our own: nothing that a user supplies becomes one.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.metrics.histogram import GAP_S, Gaps
from service.streams.stream import Stream

OUTCOMES: Final = (
    "stop",
    "length",
    "cancelled",
    "client_left",
    "invalid",
    "unauthorized",
    "queue_full",
    "queue_timeout",
    "unavailable",
    "shutting_down",
    "engine_crash",
    "failed",
)
ROUTES: Final = ("/stream", "/v1/streams", "/v1/chat/completions", "/v1/completions", "/completion")

# OpenTelemetry's recommended buckets (semantic conventions, GenAI metrics).
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class RequestSeries:
    """The outcomes of requests, and their durations."""

    def __init__(self, r: CollectorRegistry) -> None:
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the arrival of a request (its handler's first line) until its first delta is in the stream's "
            "event log; readers are notified in the same event loop iteration. Observed once per stream that produced "
            "any text, at its close.",
            buckets=TTFT_S,
            registry=r,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time from the first to the last output token, divided by the number of tokens minus one. "
            "Observed once per stream of two tokens or more, at its close.",
            buckets=PER_TOKEN_S,
            registry=r,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from the arrival of a request to its stream's close (the last token generated, a failure, or its "
            "cancellation; not the last byte read). Observed once per admitted stream.",
            ["route"],
            buckets=DURATION_S,
            registry=r,
        )
        self._gaps = Gaps(
            "llm_inter_token_latency_seconds",
            "Time between two successive deltas of one stream entering its event log, unless one step produced both.",
            GAP_S,
        )
        r.register(self._gaps)
        self.gap = self._gaps.observe  # between two deltas of a stream
        self._queue = Histogram(
            "llm_queue_duration_seconds",
            "Time from a prompt's acceptance by the engine to its first prefill chunk. Observed once "
            "per stream that got that far, at its close.",
            buckets=DURATION_S,
            registry=r,
        )
        self._prefill = Histogram(
            "llm_prefill_duration_seconds",
            "Time from a prompt's first prefill chunk to its first output token. Observed once per "
            "stream that got that far, at its close.",
            buckets=DURATION_S,
            registry=r,
        )
        self._requests = Counter(
            "llm_requests",
            "Generation requests, each counted once: at its stream's close, or when it is refused. Attaching to an "
            "existing stream is not counted.",
            ["route", "outcome"],
            registry=r,
        )
        for route in ROUTES:
            for outcome in OUTCOMES:
                self._requests.labels(route, outcome)
            self._duration.labels(route)
        tokens = Counter(
            "llm_tokens",
            "Tokens of closed streams: `in`: prompt tokens (cached ones included), `out`: generated tokens. The same "
            "counts as in `usage`.",
            ["direction"],
            registry=r,
        )
        self._tokens_in, self._tokens_out = tokens.labels("in"), tokens.labels("out")
        self._cached = Counter(
            "llm_cached_tokens",
            "Prompt tokens of closed streams taken from the prefix cache instead of being computed.",
            registry=r,
        )

    def refused(self, route: str, outcome: str) -> None:
        """A request for a generation ended before it had a stream."""
        if route in ROUTES:
            self._requests.labels(route, outcome if outcome in OUTCOMES else "failed").inc()

    def closed(self, stream: Stream) -> None:
        """A stream's single close: the one place where it is counted."""
        summary = stream.summary
        assert summary is not None
        self._requests.labels(stream.route, stream.outcome if stream.outcome in OUTCOMES else "failed").inc()
        self._duration.labels(stream.route).observe(summary.total_s)
        self._tokens_in.inc(summary.n_prompt)
        self._tokens_out.inc(summary.n_generated)
        self._cached.inc(summary.n_cached)
        if stream.migrated:  # part of it ran on another replica
            return
        if stream.times.started_at is not None:
            self._queue.observe(summary.queue_s)
        if summary.ttft_s is not None:
            self._ttft.observe(summary.ttft_s)
            self._prefill.observe(summary.prefill_s)
        if summary.n_generated > 1:
            self._per_token.observe(summary.decode_s / (summary.n_generated - 1))
