"""Which devices are found, also in a build whose backends are loaded at run time; and an engine with fake cards."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engine.host.kv_type import FAST
from service.engine.llama import devices
from service.engine.llama import model as llama
from tests.engine import fake_gpu

AGREE = """
from service.engine.llama import devices
from service.engine.llama.model import LIBRARY
from pathlib import Path
second = ctypes.CDLL(str(Path(LIBRARY._name).with_name("libggml.so")))
print([d.name for d in devices.found()], [d.name for d in devices.found(second)])
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_gpu.build(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def model(write: Callable[..., Path]) -> Path:
    return write("devices", n_ctx_train=1 << 15)


def said(errors: str) -> str:
    """An engine's output on stderr, without llama.cpp's own lines."""
    return "\n".join(line for line in errors.splitlines() if line.startswith("engine:"))


def test_the_cpu_is_a_device() -> None:
    """Every build has it, with the machine's memory and the library of its code."""
    (cpu,) = [d for d in devices.found() if d.kind == "cpu"]
    assert not cpu.is_gpu and cpu.n_bytes_total > 0
    assert cpu.library is not None and cpu.library.name.startswith("libggml-cpu")
    assert "CPU" in devices.backends()
    assert cpu.library == devices.cpu_library()


def test_the_cpu_features_of_the_build() -> None:
    """They have ggml's names; all of them are features of this processor."""
    features = devices.cpu_features()
    flags = Path("/proc/cpuinfo").read_text()
    assert features and "" not in features
    assert ("FMA" in features) <= ("fma" in flags) and ("AVX512_BF16" in features) <= ("avx512_bf16" in flags)
    assert (FAST in features) <= ("AVX512_BF16" in features)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("/opt/rill/ggml/libggml-cpu-zen4.so", "zen4"),
        ("/opt/rill/ggml/libggml-cpu-sapphirerapids.so", "sapphirerapids"),
        ("/opt/rill/ggml/libggml-cpu-x64.so", "x64"),
        ("/lib/libggml-cpu.so.0", "native"),
    ],
)
def test_cpu_variant(library: str, expected: str) -> None:
    """The name of the variant that ggml chose, if there is a choice."""
    assert devices.cpu_variant(Path(library)) == expected
    assert devices.cpu_variant(None) == "native"


def test_the_library_is_libllamas(card: Path) -> None:
    """A card whose backend was loaded at run time is found, since the registry is libllama's; the wheel's libggml.so,
    which is not libllama's libggml.so.0, would not find it."""
    done = fake_gpu.run(card, "700,800;600,900", AGREE)
    assert done.stdout == "['CPU', 'FAKE0', 'FAKE1'] ['CPU']\n", done.stderr
    assert (
        not Path(llama.LIBRARY._name)
        .with_name("libggml.so")
        .samefile(Path(llama.LIBRARY._name).with_name("libggml.so.0"))
    )


def test_all_layers_and_a_larger_cache_on_a_card(card: Path, model: Path) -> None:
    """All layers are on the card that libllama finds, with more cells than on a CPU; its memory is reported."""
    done = fake_gpu.engine(card, "70000,80000", "fox", "--model", str(model), "--max-tokens", "3", "--n-seq", "4")
    line = said(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 layers on Fake Card (68.4 of 78.1 GiB free)" in line
    assert "KV cache of 32768 cells" in line  # one whole context: more than 4 streams' 4,096 cells


NOTHING_THERE = """
from pathlib import Path
from service.engine.llama.model import Model
said = []
llama.start(lambda level, text: said.append(text))
for on_cpu in (False, True):
    said.clear()
    Model(Path(sys.argv[1]), n_gpu_layers=0, on_cpu=on_cpu).close()
    print(any("using device FAKE0" in text for text in said))
"""


def test_on_the_cpu_alone(card: Path, model: Path) -> None:
    """A card without layers still takes part: the weights are in its host buffers, and it computes large batches. Where
    results are called exact it takes no part."""
    done = fake_gpu.run(card, "7000,8000", NOTHING_THERE, str(model))
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("n", ["0", "2"])
def test_a_part_of_the_layers(card: Path, model: Path, n: str) -> None:
    """The card gets the requested layers; flash attention stays on for the rest, and the cache is no larger than on a
    CPU, in whose memory it is."""
    done = fake_gpu.engine(card, "7000,8000", "x", "--model", str(model), "--max-tokens", "3", "--n-gpu-layers", n)
    assert done.returncode == 0, done.stderr
    assert (f"{n} of 3 layers on Fake Card" if n != "0" else "no GPU") in said(done.stderr)
    assert "flash attention on" in said(done.stderr)
    assert "KV cache of 16384 cells" in said(done.stderr)


@pytest.mark.parametrize(
    ("gpus", "arguments", "words"),
    [
        ("7000,8000", ["--split-mode", "row"], r"RILL_SPLIT_MODE=row: Fake can't split rows in this build; use layer"),
        ("7000,8000", ["--split-mode", "none", "--main-gpu", "1"], r"RILL_MAIN_GPU=1: there are 1 GPUs"),
        ("1025,8000", ["--n-gpu-layers", "3"], r"; 0 layers would fit, and -1 takes as many as fit"),
        ("1500,8000", ["--n-ctx", "1000000"], r"MiB are free on Fake Card; \d{5,6} tokens would fit \(RILL_N_CTX\)"),
        ("", ["--n-gpu-layers", "3"], r"RILL_N_GPU_LAYERS=3, but Fake found no device"),
    ],
)
def test_impossible_settings_are_refused(card: Path, model: Path, gpus: str, arguments: list[str], words: str) -> None:
    """They are refused before anything is loaded onto a card, with a setting that works, and the exit status for
    settings."""
    done = fake_gpu.engine(card, gpus, "fox", "--model", str(model), "--max-tokens", "3", *arguments)
    assert done.returncode == 2, done.stderr
    assert re.search(words, said(done.stderr)), done.stderr


def test_a_gpu_build_without_a_card(card: Path, model: Path) -> None:
    """A build with GPU support works without a card, and reports the reason."""
    done = fake_gpu.engine(card, "", "fox", "--model", str(model), "--max-tokens", "3", "--n-ctx", "512")
    assert done.returncode == 0, done.stderr
    assert "engine: no GPU is used: Fake found no device" in said(done.stderr)
    assert "no GPU (Fake found no device)" in said(done.stderr)
