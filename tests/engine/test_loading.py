"""From options to a loaded model: what is checked, chosen and reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine import loading as load
from service.engine.describe import describe
from service.engine.host import resources as budget
from service.engine.host import survey
from service.engine.host.kv_type import FAST
from service.engine.host.resources import BudgetError, ConfigurationError
from service.engine.llama import devices
from service.engine.llama import model as llama
from service.engine.llama.journal import Journal
from service.engine.llama.model import LlamaError
from service.protocol.frames import Ready
from service.protocol.options import KvType, Options, Speculation
from tests.engine.host.test_exactness import quantized


@pytest.fixture(autouse=True)
def log_is_put_back() -> Iterator[None]:
    before = llama._log
    yield
    llama.start(before)


def loaded(path: Path, **options: Any) -> Ready:
    found = load.load(Options(model=str(path), n_threads=1, **options), lambda _: None)
    found.context.close()
    found.model.close()
    return found.ready


def test_ready(bpe_path: Path) -> None:
    """The front gets what was loaded and how, and the figures are llama.cpp's."""
    ready = loaded(bpe_path, n_ctx=2048, n_seq=4, n_batch=128, kv_type="bf16", flash_attention="on")
    assert (ready.model, ready.n_ctx, ready.n_ctx_seq, ready.n_seq, ready.n_batch) == ("tiny", 2048, 1024, 4, 128)
    assert (ready.kv_type, ready.flash_attention, ready.n_threads) == ("bf16", "on", 1)
    assert ready.kv_bytes == 2048 * 2 * 2 * 64 * 2  # cells x layers x (K, V) x 2 heads of 32 x bytes
    assert ready.has_chat_template and "messages" in ready.chat_template
    assert (ready.bos, ready.eos) == ("<s>", "</s>")
    assert (ready.n_layers, ready.n_layers_offloaded) == (3, 0) or ready.gpu
    assert 0 < ready.load_s < 60
    assert ready.llama_cpp == llama.VERSION


def test_the_models_own_sampling_defaults(
    bpe_path: Path, write: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """The front gets them by its names; one that is out of bounds is named, and not used."""
    assert loaded(bpe_path).sampling == {}
    path = write("own-sampling", sampling={"temp": 0.25, "top_k": 20, "mirostat": 7})
    assert loaded(path).sampling == {"temperature": 0.25, "top_k": 20}
    assert "general.sampling.mirostat is not used" in capfd.readouterr().err


def test_flash_attention_as_llama_cpp_decided(bpe_path: Path) -> None:
    """With auto the front gets llama.cpp's choice."""
    assert loaded(bpe_path).flash_attention in ("on", "off")
    assert loaded(bpe_path, kv_type="q8_0").flash_attention == "on"
    assert loaded(bpe_path, flash_attention="on").flash_attention == "on"
    assert loaded(bpe_path, flash_attention="off").flash_attention == "off"


@pytest.mark.parametrize(("kv_type", "expected"), [("f16", False), ("bf16", True), ("q8_0", True), ("f32", False)])
def test_where_exactness_is_promised(bpe_path: Path, kv_type: KvType, expected: bool) -> None:
    """On a CPU, bf16 and q8_0 caches keep their cells in order; others would gain nothing by it. The front is told."""
    found = load.load(Options(model=str(bpe_path), n_ctx=256, n_threads=1, kv_type=kv_type), lambda _: None)
    assert found.context.in_order == found.ready.exact == (expected and not found.ready.gpu)
    assert found.ready.kv_type == kv_type
    found.context.close()
    found.model.close()


def test_exact_by_default_where_it_is_free(bpe_path: Path, write: Callable[..., Path]) -> None:
    """Quantized weights get an exact cache if the processor makes it as fast, and others get f16."""
    free = loaded(bpe_path, n_gpu_layers=0)
    assert (free.kv_type, free.exact) == (("bf16", True) if FAST in devices.cpu_features() else ("f16", False))
    for inexact in (write("load-floats", weights="f32"), write("load-state", arch="mamba")):
        assert (loaded(inexact, n_gpu_layers=0).kv_type, loaded(inexact).exact) == ("f16", False)
    assert loaded(bpe_path, n_seq=256).kv_type == loaded(bpe_path, flash_attention="off").kv_type == "f16"


@pytest.mark.parametrize("but", [{"flash_attention": "off"}, {"n_seq": 256}, {"weights": "f32"}])
def test_what_exactness_needs_besides_the_type(
    write: Callable[..., Path], but: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Flash attention, an id for the dead cells, and quantized weights; if one is missing the log says so, too."""
    path = write("load-inexact", weights=but.pop("weights", "q8_0"))
    assert not loaded(path, kv_type="bf16", n_ctx=1024, **but).exact
    assert "texts depend on what else is in the batch" in capsys.readouterr().err


def test_defaults(bpe_path: Path) -> None:
    """Without a requested budget there is room for each stream's whole context, within the default."""
    assert loaded(bpe_path, n_seq=4).n_ctx == 4096
    assert loaded(bpe_path, n_seq=32).n_ctx == budget.DEFAULT_N_CTX


def test_a_stream_is_bounded_by_the_smaller_context(bpe_path: Path) -> None:
    """One stream may fill the cache, or the context that the model was trained with, whichever is less."""
    assert loaded(bpe_path, n_ctx=512).n_ctx_seq == 512
    assert loaded(bpe_path, n_ctx=4096).n_ctx_seq == 1024


def test_a_small_budget_bounds_the_batch(bpe_path: Path) -> None:
    """A batch is never larger than the cache."""
    ready = loaded(bpe_path, n_ctx=256, n_batch=512)
    assert (ready.n_ctx, ready.n_batch) == (256, 256)


def test_progress(bpe_path: Path) -> None:
    """Loading is reported up to its end."""
    seen: list[float] = []
    load.load(Options(model=str(bpe_path), n_ctx=256, n_threads=1), seen.append)
    assert seen[-1] == 1.0


def test_too_large_a_budget(bpe_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that does not fit is refused before it is allocated, and the error names the setting."""
    monkeypatch.setattr(survey, "free_memory", lambda: 1 << 20)
    with pytest.raises(BudgetError, match=r"RILL_N_CTX"):
        loaded(bpe_path, n_ctx=1 << 20)
    monkeypatch.setattr(survey, "free_memory", lambda: 600 * 512)  # 512 bytes a token at f16
    assert loaded(bpe_path).n_ctx == 512


def test_errors_have_llama_cpps_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The reason why a file could not be read is in the error and on stderr."""
    path = tmp_path / "notes.gguf"
    path.write_text("dear diary")
    with pytest.raises(LlamaError, match=r"notes\.gguf could not be loaded: .*magic"):
        loaded(path)
    assert "magic" in capfd.readouterr().err


def test_an_unsupported_context(bpe_path: Path) -> None:
    """llama.cpp's reason for refusing a combination is in the error, with the settings: a retry would not help."""
    with pytest.raises(ConfigurationError, match=r"q8_0 KV cache could not be allocated: .*lash.*RILL_KV_TYPE"):
        loaded(bpe_path, kv_type="q8_0", flash_attention="off")


def test_a_missing_file(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(LlamaError, match=r"no model file at .*nowhere\.gguf"):
        loaded(tmp_path / "nowhere.gguf")


def test_a_broken_template(write: Callable[..., Path]) -> None:
    """If the model's own does not compile, requests that need none still run; a configured one is an error."""
    assert not loaded(write("broken-template", chat_template="{% if %}")).has_chat_template
    for asked in ("nonsense", "folder/nowhere.jinja"):
        with pytest.raises(ConfigurationError, match="RILL_CHAT_TEMPLATE"):
            loaded(write("with-template"), chat_template=asked)


def test_no_template(spm_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The front and the operator are told that a model has no template; one can be given by name."""
    without = loaded(spm_path)
    assert (without.has_chat_template, without.chat_template) == (False, "")
    assert "engine: The model has no chat template" in capfd.readouterr().err
    assert loaded(spm_path, chat_template="chatml").chat_template == "chatml"


def test_drafts_if_enabled_and_if_memory_can_be_cut(bpe_path: Path, write: Callable[..., Path]) -> None:
    """Speculation can be switched off, and is off if memory can't be cut."""
    recurrent = write("load-mamba", arch="mamba")
    cases: list[tuple[Path, Speculation, bool]]
    cases = [(bpe_path, "auto", True), (bpe_path, "off", False), (recurrent, "auto", False)]
    for path, speculation, expected in cases:
        options = Options(model=str(path), n_ctx=256, n_threads=1, speculation=speculation)
        found = load.load(options, lambda _: None)
        assert (found.tuning.drafts is not None) == expected
        found.context.close()
        found.model.close()


def test_journal(capsys: pytest.CaptureFixture[str]) -> None:
    """From the log it takes offload, cache size and flash attention; warnings go to stderr, the rest does not."""
    journal = Journal()
    for level, text in [
        (2, "load_tensors: offloaded 3/25 layers to GPU\n"),
        (2, "llama_kv_cache:      CUDA0 KV buffer size =    12.50 MiB\n"),
        (2, "llama_kv_cache:        CPU KV buffer size =     1.50 MiB\n"),
        (2, "llama_memory_recurrent: CPU RS buffer size = 2.00 MiB\n"),
        (2, "llama_context: flash_attn            = auto\n"),
        (2, "resolve_fused_ops: Flash Attention enabled\n"),
        (2, "an info"),
        (5, " that goes on\n"),
        (3, "a warning"),
        (5, " that goes on\n"),
        (4, "an error\n"),
    ]:
        journal(level, text)
    assert (journal.n_layers_offloaded, journal.n_layers, journal.kv_bytes) == (3, 25, 16 << 20)
    assert journal.flash_attention == "on"
    journal(3, "resolve_fused_ops: Flash Attention not supported, set to disabled\n")
    assert journal.flash_attention == "off"
    assert journal.errors == ["an error"]
    err = capsys.readouterr().err
    assert "a warning" in err and " that goes on" in err and "an error" in err
    assert "info" not in err


def test_describe(bpe_path: Path) -> None:
    """The line for the operator names model, budget, threads and offload."""
    line = describe(loaded(bpe_path, n_ctx=1024, n_seq=2, kv_type="f16"))
    for part in ("tiny", "KV cache of 1024 cells (f16, 0.5 MiB)", "2 sequences", "1 threads", "flash attention"):
        assert part in line
    assert line.endswith("; not exact: the same request, sent again, may give another text")
    exact = describe(loaded(bpe_path, n_ctx=1024, n_seq=2, kv_type="bf16", n_gpu_layers=0))
    assert exact.endswith("; exact: the same request gives the same text")


def test_weights_are_in_the_configured_buffers(tmp_path: Path) -> None:
    """By RILL_BUFFER_TYPES, and the front gets both; a later load is not affected."""
    model = quantized(tmp_path / "q4_0.gguf", 2)
    repacked = loaded(model, n_ctx=256, buffer_types="default")
    plain = loaded(model, n_ctx=256, buffer_types="q4_0=CPU,q6_K=CPU")
    again = loaded(model, n_ctx=256, buffer_types="default")
    assert "CPU_REPACK" in repacked.weights and "CPU_REPACK" not in plain.weights
    assert (repacked.buffer_types, plain.buffer_types) == ("default", "q4_0=CPU,q6_K=CPU")
    assert again.weights == repacked.weights


def test_a_measured_choice_can_be_made_again(tmp_path: Path) -> None:
    """What one load measured and reported is a setting of the next."""
    model = quantized(tmp_path / "q4_0.gguf", 2)
    first = loaded(model, n_ctx=256)
    assert first.buffer_types.startswith("q4_0=")
    again = loaded(model, n_ctx=256, buffer_types=first.buffer_types)
    assert (again.buffer_types, again.weights) == (first.buffer_types, first.weights)


def test_an_unknown_buffer_type(bpe_path: Path) -> None:
    """It is refused before anything is loaded, with the available ones."""
    with pytest.raises(ConfigurationError, match=r"RILL_BUFFER_TYPES: q8_0 weights can be kept in .*CPU"):
        loaded(bpe_path, buffer_types="q8_0=DISK")
