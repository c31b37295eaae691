"""Why a build that could use an NVIDIA GPU finds none, in words that an operator can act on. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

DRIVER = "libcuda.so.1"  # the NVIDIA driver's library, which comes with the driver and is never in an image
PLUGIN = "libggml-cuda.so"  # ggml's CUDA backend, in the CPU backend's folder, where backends are loaded at run time


def cause(
    *,
    backends: Iterable[str],
    folder: Path | None,
    errors: Iterable[str],
    visible: str | None,
    refusal: Callable[[str], str],
) -> str:
    """One clause; "" for a build without GPU support.

    backends: those registered; folder: of the CPU backend's library; errors: llama.cpp's error lines so far;
    visible: CUDA_VISIBLE_DEVICES; refusal: why a library can't be loaded, "" when it can.
    """
    is_loaded = "CUDA" in backends
    plugin = folder / PLUGIN if folder else None
    if not is_loaded and not (plugin and plugin.is_file()):
        others = sorted(set(backends) - {"CPU", "BLAS"})
        return f"{', '.join(others)} found no device" if others else ""
    if refusal(DRIVER):
        return (
            f"there is no NVIDIA driver here ({DRIVER} can't be loaded): install one; a container needs --gpus all "
            "and the NVIDIA Container Toolkit on its host"
        )
    if not is_loaded and (words := refusal(str(plugin))):
        return f"{PLUGIN} can't be loaded: {words}"
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible.strip()} hides every GPU"
    words = next((m[1] for e in errors if (m := re.search(r"failed to initialize CUDA: (.+)", e))), "")
    if "driver version is insufficient" in words:
        return f"the NVIDIA driver is too old for this build ({words}): update it"
    return f"CUDA finds no GPU ({words or 'no error message'}): nvidia-smi shows what the driver sees"
