"""How the operator wants a model loaded: values, as the command line gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.engine.host import buffer_types, kv_type
from service.engine.host.resources import usable_cores
from service.engine.scheduling.prefill_chunks import STEP_S

PREFIX_SCOPES = ("tenant", "all", "off")
SPECULATION = ("auto", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to load; None lets the engine choose."""

    model: Path
    n_ctx: int | None = None
    n_seq: int = 32
    n_batch: int = 512
    n_threads: int | None = None
    kv_type: str = kv_type.AUTO
    flash_attention: str = "auto"
    n_gpu_layers: int = -1
    split_mode: str = "layer"
    main_gpu: int = 0
    prefix_scope: str = "tenant"
    speculation: str = "auto"
    step_s: float = STEP_S
    buffer_types: str = buffer_types.AUTO
    chat_template: str = ""

    @property
    def threads(self) -> int:
        """As many as asked for, or the physical cores that may be used."""
        return self.n_threads or usable_cores()
