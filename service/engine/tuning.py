"""How the engine schedules with one model on one machine: what was measured at load, and what the settings rule out."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.scheduling.prefill_chunks import PrefillChunker
from service.engine.speculation.drafter import Drafts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The defaults are for tests and for an engine with one sequence."""

    chunker: PrefillChunker | None = None  # sizes prefill chunks; None: for steps of 0.2 s
    most_kept_cells: int | None = None  # of kept prefixes: more would slow every step; None: all that are free
    drafts: Drafts | None = None  # proposes draft tokens; None: no speculative decoding
    shares: bool = True  # whether the prefix cache is used
