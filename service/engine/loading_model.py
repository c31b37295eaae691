"""Reads one model's file into memory, as the settings place it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.engine.host.placement import Placement
from service.engine.llama.model import Model
from service.engine.options import Options


def read_model(path: Path, options: Options, placement: Placement, on_progress: Callable[[float], None]) -> Model:
    return Model(
        path,
        n_gpu_layers=placement.n_gpu_layers,
        split_mode=options.split_mode,
        main_gpu=options.main_gpu,
        on_cpu=not placement.gpus,
        on_progress=on_progress,
    )
