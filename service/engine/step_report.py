"""What a step reports of its rows and of the queue. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from service.engine.scheduling.batch import Row
from service.engine.sequences.sequence import Sequence
from service.protocol.frames import Step


def count(row: Row, began: float, step: Step) -> None:
    """Enter a computed row in the report, before its sequence advances. began: the step's time."""
    sequence = row.sequence
    sequence.started_at = sequence.started_at or began
    step.n_batch += row.n_tokens
    step.n_drafted += len(row.drafts)
    step.n_prefill += row.n if sequence.is_prefilling else 0
    if sequence.n_past < sequence.n_prompt:
        n_done = min(sequence.n_past + row.n, sequence.n_prompt)
        step.prefill.append((sequence.id, n_done, sequence.n_prompt))


def moved(before: Mapping[str, int], waiting: list[Sequence]) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """The queue positions now, by id, and those that are not as they were before."""
    positions = {s.id: at for at, s in enumerate(waiting, 1)}
    return positions, [(id, at) for id, at in positions.items() if before.get(id) != at]
