"""The time series by what they tell of: requests, the engine, the log that outlives us. One declaration a series.

Names follow OpenTelemetry's GenAI conventions in Prometheus form where they have one, and llm_* otherwise. Labels
come from closed sets of our own: nothing that a user supplies becomes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.engine.protocol import Ready, Step
from service.streams import Stream

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
ROUTES: Final = ("/stream", "/v1/streams", "/v1/chat/completions", "/v1/completions")

# OpenTelemetry's recommended buckets (semantic conventions, GenAI metrics).
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
BATCH_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class RequestSeries:
    """What became of requests, and how long what took."""

    def __init__(self, r: CollectorRegistry) -> None:
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the arrival of a request (its handler's first line) to its first delta being in the stream's log, "
            "from where its readers are woken in the same turn of the event loop. Once per stream that made any text, "
            "at its close.",
            buckets=TTFT_S,
            registry=r,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time from the first to the last output token divided by the number of tokens less one. Once per stream "
            "of two tokens or more, at its close.",
            buckets=PER_TOKEN_S,
            registry=r,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the arrival of a request to its stream's close (the last token made, a failure, or its "
            "cancellation; not the last byte read). Once per admitted stream.",
            ["route"],
            buckets=DURATION_S,
            registry=r,
        )
        self._gaps = Gaps(
            "llm_inter_token_latency_seconds",
            "Gap between two successive deltas of one stream as they enter its log, where no one step made both.",
            GAP_S,
        )
        r.register(self._gaps)
        self.gap = self._gaps.observe  # between two deltas of a stream
        self._queue = Histogram(
            "llm_queue_duration_seconds",
            "From a prompt's acceptance by the engine to its first prefill slice. Once per stream that got so far, "
            "at its close.",
            buckets=DURATION_S,
            registry=r,
        )
        self._prefill = Histogram(
            "llm_prefill_duration_seconds",
            "From a prompt's first prefill slice to its first output token. Once per stream that got so far, at its "
            "close.",
            buckets=DURATION_S,
            registry=r,
        )
        self._requests = Counter(
            "llm_requests",
            "Requests for a generation, each counted once: at its stream's close, or when it is refused. Attaching "
            "to a stream that exists is not one.",
            ["route", "outcome"],
            registry=r,
        )
        for route in ROUTES:
            for outcome in OUTCOMES:
                self._requests.labels(route, outcome)
            self._duration.labels(route)
        tokens = Counter(
            "llm_tokens",
            "Tokens of closed streams: `in` the prompts' (cached ones included), `out` the generated ones. As usage "
            "reports them.",
            ["direction"],
            registry=r,
        )
        self._tokens_in, self._tokens_out = tokens.labels("in"), tokens.labels("out")
        self._cached = Counter(
            "llm_cached_tokens", "Prompt tokens of closed streams that were not computed again.", registry=r
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
        if stream.travelled:  # it spent a part of its time elsewhere
            return
        if stream.started_at is not None:
            self._queue.observe(summary.queue_s)
        if summary.ttft_s is not None:
            self._ttft.observe(summary.ttft_s)
            self._prefill.observe(summary.prefill_s)
        if summary.n_generated > 1:
            self._per_token.observe(summary.decode_s / (summary.n_generated - 1))


class EngineSeries:
    """What the engine says of itself, and how often it died."""

    def __init__(self, r: CollectorRegistry, version: str) -> None:
        self._version = version
        self._n_ctx = 0
        self._up = Gauge("llm_engine_up", "1 while the engine is loaded and answers, else 0.", registry=r)
        self._model = Gauge(
            "llm_model_info",
            "1; the model that is loaded, in labels. exact: true where the same request gives the same text.",
            ["model", "description", "kv_type", "flash_attention", "exact"],
            registry=r,
        )
        self._layers = Gauge("llm_engine_layers", "Layers of the model that can be offloaded to a GPU.", registry=r)
        self._offloaded = Gauge("llm_engine_layers_offloaded", "Layers that were offloaded.", registry=r)
        self._gpu_bytes = Gauge(
            "llm_engine_gpu_memory_bytes",
            "Memory of each GPU that takes part in the work after the last load: all of it, and what was free then.",
            ["device", "description", "kind"],
            registry=r,
        )
        self._no_gpu = Gauge(
            "llm_engine_gpu_missing",
            "1 while the engine works without a GPU although its build could use one, else 0. The log says why.",
            registry=r,
        )
        self._load = Gauge("llm_model_load_seconds", "How long the last load of the model took.", registry=r)
        self._build = Gauge(
            "llm_build_info", "1; the versions of this build, in labels.", ["version", "llama_cpp"], registry=r
        )
        self._kv_used = Gauge("llm_kv_cache_used_cells", "KV cells of running streams after the last step.", registry=r)
        self._kv_cells = Gauge("llm_kv_cache_cells", "KV cells there are (n_ctx).", registry=r)
        self._kv_ratio = Gauge(
            "llm_kv_cache_usage_ratio",
            "Share of the KV cells that running streams hold after the last step, 0 to 1.",
            registry=r,
        )
        self._kv_kept = Gauge(
            "llm_kv_cache_kept_cells",
            "KV cells of ended streams, kept for prompts that begin alike; they go when room is needed.",
            registry=r,
        )
        self._kept = Gauge(
            "llm_kept_prefixes", "Ended streams whose KV cells are kept for prompts that begin alike.", registry=r
        )
        self._batch = Histogram(
            "llm_batch_tokens",
            "Tokens in one decode call, prompt and output together.",
            buckets=BATCH_TOKENS,
            registry=r,
        )
        self.restarts = Counter(
            "llm_engine_restarts",
            "Times that the engine's process died, was killed for a hang, or could not be started.",
            registry=r,
        )
        self._made = Counter(
            "llm_step_tokens",
            "Tokens that the engine's decode calls took in, by kind, as its steps report them.",
            ["kind"],
            registry=r,
        )
        drafts = Counter(
            "llm_draft_tokens",
            "Guesses decoded beside sequences' next tokens, and whether they came. The rejected ones count those, too, "
            "that only fill up a batch whose decode is faster so.",
            ["outcome"],
            registry=r,
        )
        self._accepted, self._rejected = drafts.labels("accepted"), drafts.labels("rejected")
        self._preempted = Counter("llm_preemptions", "Sequences put back to waiting for want of KV cells.", registry=r)
        self.continued = Counter(
            "llm_streams_continued",
            "Times that a stream was handed to the next engine after its own died.",
            registry=r,
        )

    def ready(self, ready: Ready) -> None:
        """The engine has loaded a model."""
        self._up.set(1)
        self._model.clear()
        exact = str(ready.exact).lower()
        self._model.labels(ready.model, ready.description, ready.kv_type, ready.flash_attention, exact).set(1)
        self._build.clear()
        self._build.labels(self._version, ready.llama_cpp).set(1)
        self._layers.set(ready.n_layers)
        self._offloaded.set(ready.n_layers_offloaded)
        self._gpu_bytes.clear()
        for gpu in ready.gpus:
            self._gpu_bytes.labels(gpu.name, gpu.description, "total").set(gpu.n_bytes_total)
            self._gpu_bytes.labels(gpu.name, gpu.description, "free").set(gpu.n_bytes_free)
        self._no_gpu.set(bool(ready.no_gpu))
        self._load.set(ready.load_s)
        self._kv_cells.set(ready.n_ctx)
        self._n_ctx = ready.n_ctx

    def lost(self) -> None:
        """The engine died."""
        self._up.set(0)
        self.restarts.inc()
        for gauge in (self._kv_used, self._kv_ratio, self._kv_kept, self._kept):
            gauge.set(0)

    def step(self, step: Step) -> None:
        self._kv_kept.set(step.kv_kept)
        self._kept.set(step.n_kept)
        self._kv_used.set(step.kv_used)
        self._kv_ratio.set(step.kv_used / self._n_ctx if self._n_ctx else 0)
        if step.n_batch:
            self._batch.observe(step.n_batch)
            self._made.labels("prefill").inc(step.n_prefill)
            self._made.labels("decode").inc(step.n_batch - step.n_prefill)
        self._accepted.inc(step.n_accepted)
        self._rejected.inc(step.n_drafted - step.n_accepted)
        if step.n_preempted:
            self._preempted.inc(step.n_preempted)


class LogSeries:
    """How the log fares that outlives this process, and which streams changed replicas."""

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


class Gaps(Collector):
    """A histogram for the hottest path: one observation a token, so counts in a list and no lock (one thread)."""

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...]) -> None:
        self._name, self._documentation, self._bounds = name, documentation, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        buckets, total = [], 0
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum)
        yield family
