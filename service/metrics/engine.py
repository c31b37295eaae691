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
        self._up = Gauge("llm_engine_up", "1 while the engine is loaded and responds, else 0.", registry=r)
        self._model = Gauge(
            "llm_model_info",
            "Always 1; the loaded model, in labels. exact: true if the same request always gives the same text.",
            ["model", "description", "kv_type", "flash_attention", "exact"],
            registry=r,
        )
        self._layers = Gauge("llm_engine_layers", "Number of model layers that can be offloaded to a GPU.", registry=r)
        self._offloaded = Gauge("llm_engine_layers_offloaded", "Number of model layers offloaded to GPUs.", registry=r)
        self._gpu_bytes = Gauge(
            "llm_engine_gpu_memory_bytes",
            "Memory of each GPU in use, measured after the last model load: total and free.",
            ["device", "description", "kind"],
            registry=r,
        )
        self._no_gpu = Gauge(
            "llm_engine_gpu_missing",
            "1 while the engine runs without a GPU although its build supports one, else 0. The log states the reason.",
            registry=r,
        )
        self._load = Gauge("llm_model_load_seconds", "Duration of the last model load.", registry=r)
        self._build = Gauge(
            "llm_build_info", "Always 1; the versions of this build, in labels.", ["version", "llama_cpp"], registry=r
        )
        self._kv_used = Gauge(
            "llm_kv_cache_used_cells", "KV cache cells held by running streams after the last step.", registry=r
        )
        self._kv_cells = Gauge("llm_kv_cache_cells", "Total number of KV cache cells (n_ctx).", registry=r)
        self._kv_ratio = Gauge(
            "llm_kv_cache_usage_ratio",
            "Fraction of the KV cache cells held by running streams after the last step, 0 to 1.",
            registry=r,
        )
        self._kv_kept = Gauge(
            "llm_kv_cache_kept_cells",
            "KV cache cells of ended streams kept in the prefix cache; they are evicted when cells are needed.",
            registry=r,
        )
        self._kept = Gauge("llm_kept_prefixes", "Number of ended streams kept in the prefix cache.", registry=r)
        self._batch = Histogram(
            "llm_batch_tokens",
            "Tokens per decode call, prompt and output tokens together.",
            buckets=BATCH_TOKENS,
            registry=r,
        )
        self.restarts = Counter(
            "llm_engine_restarts",
            "Number of times that the engine process died, was killed because it hung, or could not be started.",
            registry=r,
        )
        self._made = Counter(
            "llm_step_tokens",
            "Tokens processed by the engine's decode calls, by kind, as its steps report them.",
            ["kind"],
            registry=r,
        )
        drafts = Counter(
            "llm_draft_tokens",
            "Draft tokens proposed in speculative decoding, by outcome: accepted or rejected. Rejected ones include "
            "those that only pad a batch to a size that decodes faster.",
            ["outcome"],
            registry=r,
        )
        self._accepted, self._rejected = drafts.labels("accepted"), drafts.labels("rejected")
        self._preempted = Counter(
            "llm_preemptions", "Sequences preempted because no KV cache cells were free.", registry=r
        )
        self.continued = Counter(
            "llm_streams_continued",
            "Number of times that a stream was resubmitted to a new engine process after the previous one died.",
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
