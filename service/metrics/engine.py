"""Series of the engine: its steps, its model, its KV cache, its GPUs. One declaration a series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.protocol.frames import Ready, Step

BATCH_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class EngineSeries:
    """What the engine reports, and how often it died."""

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
