from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.metrics import Metrics
from service.metrics.requests import OUTCOMES
from service.protocol.frames import GPU, Step
from tests.fakes import finish, ready
from tests.streams.test_stream import ID, stream


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_every_series_is_defined_in_its_help() -> None:
    """The help is a sentence that says what is counted, and for a duration when its clock starts and stops."""
    families = list(text_string_to_metric_families(Metrics(version="1").text().decode()))
    assert len(families) > 25
    for family in families:
        assert len(family.documentation) > 15 and family.documentation.endswith("."), family.name
        if family.type == "histogram" and family.name.endswith("_seconds") and "lag" not in family.name:
            assert "rom " in family.documentation or "between" in family.documentation, family.name


def test_names_are_opentelemetrys_or_llm() -> None:
    """gen_ai_server_* where the conventions define a name, llm_* for the rest."""
    families = text_string_to_metric_families(Metrics(version="1").text().decode())
    names = {family.name for family in families}
    assert {
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai_server_request_duration_seconds",
    } == {name for name in names if not name.startswith("llm_")}


def test_outcomes_are_a_closed_set() -> None:
    """All series exist from the start, so that a rate is never missing; an unknown outcome is `failed`."""
    metrics = Metrics(version="1")
    for outcome in OUTCOMES:
        assert value(metrics, "llm_requests_total", route="/stream", outcome=outcome) == 0
    metrics.refused("/stream", "never heard of")
    metrics.refused("/v1/models", "invalid")
    assert value(metrics, "llm_requests_total", route="/stream", outcome="failed") == 1
    assert b"/v1/models" not in metrics.text()


def test_several_services_in_one_process() -> None:
    """Each has its own registry."""
    first, second = Metrics(version="1"), Metrics(version="1")
    first.refused("/stream", "invalid")
    assert value(second, "llm_requests_total", route="/stream", outcome="invalid") == 0


def test_exactness_is_a_label() -> None:
    """The loaded model's labels say whether the same request gives the same text."""
    metrics = Metrics(version="1")
    for exact in (False, True):
        info = ready(exact=exact)
        metrics.ready(info)
        labels = {name: getattr(info, name) for name in ("model", "description", "kv_type", "flash_attention")}
        assert value(metrics, "llm_model_info", **labels, exact=str(exact).lower()) == 1
        assert value(metrics, "llm_model_info", **labels, exact=str(not exact).lower()) is None


def test_gpus() -> None:
    """Memory of each card in use, as of the last load; and whether a GPU is missing."""
    metrics, name = Metrics(version="1"), "llm_engine_gpu_memory_bytes"
    metrics.ready(ready(gpus=[GPU("CUDA0", "H100", 80, 20), GPU("CUDA1", "H100", 80, 30)]))
    for device, free in (("CUDA0", 20), ("CUDA1", 30)):
        labels = {"device": device, "description": "H100"}
        assert (value(metrics, name, kind="free", **labels), value(metrics, name, kind="total", **labels)) == (free, 80)
    assert value(metrics, "llm_engine_gpu_missing") == 0
    metrics.ready(ready(no_gpu="no driver"))
    assert value(metrics, "llm_engine_gpu_missing") == 1
    assert value(metrics, name, kind="free", device="CUDA0", description="H100") is None


def test_a_step_sets_the_gauges() -> None:
    """Cells also as a share, those of kept prefixes separately; the batch by kind; preemptions added up."""
    metrics = Metrics(version="1")
    metrics.ready(ready(n_ctx=1000))
    metrics.step(Step(n_batch=20, n_prefill=17, kv_used=250, kv_kept=300, n_kept=2, n_preempted=1))
    assert (value(metrics, "llm_kv_cache_used_cells"), value(metrics, "llm_kv_cache_usage_ratio")) == (250, 0.25)
    assert (value(metrics, "llm_kv_cache_kept_cells"), value(metrics, "llm_kept_prefixes")) == (300, 2)
    assert value(metrics, "llm_step_tokens_total", kind="prefill") == 17
    assert value(metrics, "llm_step_tokens_total", kind="decode") == 3
    assert value(metrics, "llm_preemptions_total") == 1
    assert value(metrics, "llm_batch_tokens_sum") == 20


def test_draft_tokens_by_outcome() -> None:
    """Accepted and rejected draft tokens are added up; both series exist before the first."""
    metrics = Metrics(version="1")
    assert value(metrics, "llm_draft_tokens_total", outcome="rejected") == 0
    for _ in range(2):
        metrics.step(Step(n_batch=8, n_drafted=7, n_accepted=5))
    assert value(metrics, "llm_draft_tokens_total", outcome="accepted") == 10
    assert value(metrics, "llm_draft_tokens_total", outcome="rejected") == 4


def test_inconsistent_counts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """More accepted draft tokens than draft tokens would be the engine's fault: it is logged, and no stream ends
    because of it."""
    metrics = Metrics(version="1")
    metrics.step(Step(n_batch=1, n_drafted=0, n_accepted=1))
    assert [record.message for record in caplog.records] == ["unexpected error in the metrics"]
    metrics.step(Step(n_batch=8, n_drafted=7, n_accepted=5))
    assert value(metrics, "llm_draft_tokens_total", outcome="rejected") == 2


def test_a_death_leaves_no_stale_gauges() -> None:
    """A dead engine has no cells."""
    metrics = Metrics(version="1")
    metrics.ready(ready())
    metrics.step(Step(kv_used=9, kv_kept=8, n_kept=1))
    metrics.lost()
    for name in ("llm_kv_cache_usage_ratio", "llm_kv_cache_used_cells", "llm_kv_cache_kept_cells", "llm_kept_prefixes"):
        assert value(metrics, name) == 0


def test_another_model_replaces_the_labels() -> None:
    """There is one model_info series at a time."""
    metrics = Metrics(version="1")
    for name in ("first", "second"):
        metrics.ready(ready(model=name))
    assert metrics.text().count(b"llm_model_info{") == 1


def test_gaps_fall_into_cumulative_buckets() -> None:
    """As Prometheus requires: le is inclusive, the last bucket is the count."""
    metrics = Metrics(version="1")
    for gap_s in (0.001, 0.002, 0.2, 99):
        metrics.gap(gap_s)
    name = "llm_inter_token_latency_seconds"
    counts = [value(metrics, name + "_bucket", le=le) for le in ("0.001", "0.0025", "0.2", "10.0", "+Inf")]
    assert counts == [1, 2, 3, 3, 4]
    assert (value(metrics, name + "_count"), value(metrics, name + "_sum")) == (4, 99.203)


def test_a_stream_without_text_has_no_first_token() -> None:
    """Only what happened is observed: a stream that never left the queue has no queue duration, one without text no
    first token."""
    metrics = Metrics(version="1")
    one = stream()
    one.accept(3, 0.0)
    one.cancel("cancelled", 103.0)
    metrics.closed(one)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count") == 0
    assert value(metrics, "llm_queue_duration_seconds_count") == 0
    assert value(metrics, "gen_ai_server_request_duration_seconds_sum", route="/stream") == 3


def test_time_per_token_is_over_the_gaps() -> None:
    """Six tokens in one second have five gaps."""
    metrics = Metrics(version="1")
    one = stream()
    one.accept(3, 0.0)
    one.finish(finish(ID, n_generated=6), 103.0)
    metrics.closed(one)
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_sum") == 0.2
