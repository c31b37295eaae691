"""The cause that an operator gets where a GPU was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.engine.host import no_gpu

OLD = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"
NONE = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"


@pytest.mark.parametrize(
    ("backends", "plugin", "refused", "errors", "visible", "words"),
    [
        (["CPU"], False, [], [], None, ""),  # a build for the CPU: nothing is missing
        (["CPU", "Vulkan"], False, [], [], None, "Vulkan found no device"),
        (["CPU"], True, ["libcuda.so.1"], [], None, "no NVIDIA driver here .*--gpus all"),
        (["CPU", "CUDA"], False, ["libcuda.so.1"], [], None, "no NVIDIA driver here"),
        (["CPU"], True, ["libggml-cuda.so"], [], None, "libggml-cuda.so can't be loaded: libggml-cuda.so: no"),
        (["CPU", "CUDA"], False, [], [NONE], "", "CUDA_VISIBLE_DEVICES= hides every GPU"),
        (["CPU", "CUDA"], False, [], [NONE], "-1", "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
        (["CPU", "CUDA"], False, [], [NONE], "0", "finds no GPU .no CUDA-capable device is detected"),
        (["CPU", "CUDA"], False, [], ["something else", OLD], None, "driver is too old for this build"),
        (["CPU", "CUDA"], False, [], [], None, "finds no GPU .no error message"),
    ],
)
def test_cause(
    tmp_path: Path,
    backends: list[str],
    plugin: bool,
    refused: list[str],
    errors: list[str],
    visible: str | None,
    words: str,
) -> None:
    """No driver, a driver that is too old, hidden cards, and CUDA's own messages are distinguished."""
    if plugin:
        (tmp_path / no_gpu.PLUGIN).touch()

    def refusal(library: str) -> str:
        return f"{Path(library).name}: no" if Path(library).name in refused else ""

    cause = no_gpu.cause(backends=backends, folder=tmp_path, errors=errors, visible=visible, refusal=refusal)
    assert (cause == "") == (words == "")
    assert re.search(words, cause), cause
