"""Loads a draft model beside the model that it drafts for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.engine.calibration import measure_rows, warm_up
from service.engine.host.placement import Placement
from service.engine.llama import model as llama
from service.engine.llama.context import Context
from service.engine.llama.journal import Journal
from service.engine.llama.model import LlamaError, Model
from service.engine.loading_model import read_model
from service.engine.options import Options
from service.engine.speculation import draft_model
from service.engine.speculation.draft_model import DraftModel


def load_draft(
    options: Options,
    path: Path,
    model: Model,
    context: Context,
    placement: Placement,
    clock: Callable[[], float],
    on_progress: Callable[[float], None],
) -> DraftModel:
    """The draft model for this model, with a context of its own. Raises LlamaError."""
    journal = Journal()
    llama.start(journal)
    try:
        draft = read_model(path, options, placement, on_progress)
        own = Context(
            draft,
            n_ctx=context.n_ctx,
            n_seq=options.n_seq,
            n_batch=context.n_batch,
            n_threads=options.threads,
            flash_attention=options.flash_attention,
            n_tile=context.n_tile,
            pool=context.pool,
        )
        draft_model.check(model, draft, own)
    except LlamaError as e:
        raise LlamaError("; ".join([f"the draft model: {e}", *journal.errors[-3:]])) from e
    slices = warm_up(own, options.step_s)
    return DraftModel(draft, own, measure_rows(own, clock), slices, n_vocab=model.n_vocab, clock=clock)
