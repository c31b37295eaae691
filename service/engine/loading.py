"""Options -> a loaded model, its context, its inbox, and what the front must know; the KV budget is checked."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from service.engine.calibration import measure_kept, measure_rows, warm_up
from service.engine.host import buffer_timing, buffer_types, patches, survey, weights
from service.engine.host.exactness import is_exact
from service.engine.host.kv_type import AUTO, EXACT, UNASKED, Given, choose_kv_type, head_size
from service.engine.host.placement import Placement
from service.engine.host.resources import (
    DEFAULT_N_CTX,
    ConfigurationError,
    choose_n_ctx,
    kv_bytes_per_token,
    usable_cores,
)
from service.engine.host.vram import Need, default_cells
from service.engine.host.weights import Weights
from service.engine.kv.memory import Memory
from service.engine.llama import devices
from service.engine.llama import model as llama
from service.engine.llama.constants import MAX_SEQUENCES, N_TILE
from service.engine.llama.context import Context, ContextParams
from service.engine.llama.journal import Journal
from service.engine.llama.model import LlamaError, Model
from service.engine.prompts import chat_template
from service.engine.prompts.inbox import Inbox
from service.engine.sampling.defaults import sampling_defaults
from service.engine.speculation.drafter import Drafts
from service.engine.speculation.planning import MAX_DRAFTS
from service.engine.tuning import Tuning
from service.protocol.frames import Ready
from service.protocol.options import Options

N_KEPT = 64  # each has a row of logits, too: 0.6 MB of a 152k vocabulary
N_KEPT_STATES = 16  # a state of Mamba-2.8B is 20 MB


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to run."""

    model: Model
    context: Context
    inbox: Inbox
    ready: Ready
    tuning: Tuning


def load(options: Options, on_progress: Callable[[float], None]) -> Loaded:
    """Read the model, make its context. Raises LlamaError, ConfigurationError: each says what to do."""
    began = time.monotonic()
    journal = Journal()
    llama.start(journal)
    for line in patches.lacks(patches.applied(llama.PACKAGE)):
        _say(f"built without {line}")
    chat_template.check(options.chat_template)
    path = Path(options.model)
    read = weights.read(path)
    placement, need = _place(read, options, journal)
    if placement.warning:
        _say(f"no GPU is used: {placement.warning}")
    if placement.is_partial and options.flash_attention == "auto":
        options = replace(options, flash_attention="on")
    options = replace(options, buffer_types=_settle_buffer_types(options, read, placement))
    try:
        model = Model(
            path,
            n_gpu_layers=placement.n_gpu_layers,
            split_mode=options.split_mode,
            main_gpu=options.main_gpu,
            on_cpu=not placement.gpus,
            on_progress=on_progress,
        )
        options = replace(options, kv_type=choose_kv_type(options.kv_type, _given(model, options, read, placement)))
        context = _context(model, options, placement, need)
    except LlamaError as e:
        error = "; ".join([str(e), *journal.errors[-3:]]).replace("; ", ": ", 1)
        if blamed := _blamed(error, on_gpu=bool(placement.gpus)):
            raise ConfigurationError(f"{error} ({blamed})") from e
        raise LlamaError(error) from e
    chunker = warm_up(context, options.step_ms / 1000)
    flash_attention = journal.flash_attention or options.flash_attention
    exact = context.in_order and flash_attention == "on" and is_exact(context, model.n_vocab)
    if options.kv_type in EXACT and not placement.gpus and not exact:
        _say("not exact: texts depend on what else is in the batch; docs/exactness.md lists what is exact")
    tuning = Tuning(
        chunker=chunker,
        drafts=_drafts(options, model, context, placement),
        most_kept_cells=measure_kept(context),
        shares=options.prefix_scope != "off",
    )
    sampling, unusable = sampling_defaults(model.meta)
    for key in unusable:
        _say(f"the model's {key} is not used: its value is out of bounds")
    n_ctx_seq = min(context.n_ctx, model.n_ctx_train)
    is_shared = options.prefix_scope == "all"
    inbox = Inbox(model, n_ctx_seq=n_ctx_seq, is_shared=is_shared, chat_template=options.chat_template)
    if inbox.template.note:
        _say(inbox.template.note)
    ready = Ready(
        model=model.name,
        description=model.description,
        n_params=model.n_params,
        model_bytes=model.n_bytes,
        n_vocab=model.n_vocab,
        n_ctx=context.n_ctx,
        n_ctx_seq=n_ctx_seq,
        n_seq=context.n_seq,
        n_batch=context.n_batch,
        n_threads=_threads(options),
        kv_type=options.kv_type,
        kv_bytes=journal.kv_bytes,
        exact=exact,
        flash_attention=flash_attention,
        n_layers=journal.n_layers or model.n_layers + 1,
        n_layers_offloaded=journal.n_layers_offloaded if placement.gpus else 0,
        gpu=", ".join(d.description for d in placement.gpus),
        gpus=survey.told(placement),
        no_gpu=placement.warning,
        cpu=devices.cpu_variant(devices.cpu_library()),
        weights=", ".join(f"{name} {n_mib:.0f} MiB" for name, n_mib in journal.buffers.items()),
        buffer_types=options.buffer_types,
        has_chat_template=inbox.template.render is not None,
        chat_template=inbox.template.source,
        bos=model.text_of(model.bos),
        eos=model.text_of(model.eos),
        sampling=sampling,
        load_s=time.monotonic() - began,
        llama_cpp=llama.VERSION,
    )
    return Loaded(model, context, inbox, ready, tuning)


def _blamed(error: str, *, on_gpu: bool) -> str:
    """Which settings ask for the impossible, by llama.cpp's error text; "" where a retry may succeed."""
    if re.search("requires flash_attn|requires Flash Attention|does not divide n_embd", error):
        return "RILL_KV_TYPE and RILL_FLASH_ATTENTION can't be combined for this model"
    if on_gpu and re.search("cudaMalloc failed|failed to allocate|unable to allocate", error):
        return "RILL_N_CTX, RILL_N_BATCH or RILL_N_GPU_LAYERS is too large"
    return ""


def _place(read: Weights | None, options: Options, journal: Journal) -> tuple[Placement, Need]:
    """Where the layers go. Raises ConfigurationError."""
    return survey.place(
        read,
        asked=options.n_gpu_layers,
        split_mode=options.split_mode,
        main_gpu=options.main_gpu,
        n_ctx=options.n_ctx,
        n_batch=options.n_batch,
        n_outputs=options.n_seq + max(N_KEPT, MAX_DRAFTS),
        kv_type=UNASKED if options.kv_type == AUTO else options.kv_type,  # auto's choice on a GPU
        flash_attention=options.flash_attention != "off",
        errors=journal.errors,
    )


def _settle_buffer_types(options: Options, read: Weights | None, placement: Placement) -> str:
    """The buffer types of the CPU's weights, as a word. Raises ConfigurationError."""
    if not placement.gpus and options.kv_type in EXACT:
        # Otherwise ggml sums products of K weights with eight rows or more in another order; it reads this at its first
        # product. With auto such weights get no type of EXACT, unless they are repacked (kv_type.py).
        os.environ.setdefault("GGML_CPU_TILED_MM", "0")
    if placement.has_cards_of_its_own or read is None:
        return buffer_types.DEFAULT
    return buffer_types.settle(options.buffer_types, read.types, buffer_timing.products(), _say)


def _drafts(options: Options, model: Model, context: Context, placement: Placement) -> Drafts | None:
    """The source of draft tokens; None where the settings or the model's memory rule them out."""
    if options.speculation == "off" or context.memory is not Memory.CUTTABLE:
        return None
    # On a CPU as CPU time: other processes' load would make one number of rows look expensive, and another cheap.
    clock = time.monotonic if placement.gpus else time.process_time
    return Drafts(model.end_tokens, measure_rows(context, clock), clock=clock)


def _given(model: Model, options: Options, read: Weights | None, placement: Placement) -> Given:
    return Given(
        features=devices.cpu_features(),
        weights=frozenset(read.types) if read else frozenset(),
        head=head_size(model.meta),
        on_gpu=bool(placement.gpus),
        flash_attention=options.flash_attention != "off",
        can_be_exact=options.n_seq < MAX_SEQUENCES and not model.n_swa and not model.has_state,
    )


def _context(model: Model, options: Options, placement: Placement, need: Need) -> Context:
    """The context in which all sequences are computed. Raises LlamaError or BudgetError."""
    on_gpu = bool(placement.gpus)
    default = (
        default_cells(model.n_ctx_train, options.n_seq)
        if placement.has_cards_of_its_own
        else min(model.n_ctx_train * options.n_seq, DEFAULT_N_CTX)
    )
    n_ctx = choose_n_ctx(
        options.n_ctx,
        default=default,
        pools=survey.pools(
            kv_bytes_per_token(model.meta, options.kv_type),
            placement,
            need,
            is_bound=options.n_ctx is not None and (model.n_swa > 0 or model.has_state),
        ),
    )
    if options.n_ctx is None and n_ctx < default:
        _say(f"n_ctx is {n_ctx}, not {default}: no more fits into the memory that is free (RILL_N_CTX)")
    params = ContextParams(
        n_ctx=n_ctx,
        n_seq=options.n_seq,
        n_kept=0 if options.prefix_scope == "off" else most_kept(model),
        n_drafts=MAX_DRAFTS,
        n_batch=min(options.n_batch, n_ctx),
        n_threads=_threads(options),
        kv_type=options.kv_type,
        flash_attention=options.flash_attention,
        n_tile=None if on_gpu else N_TILE,
        in_order=not on_gpu and options.kv_type in EXACT,
    )
    return Context(model, params)


def _threads(options: Options) -> int:
    """As many as asked for, or the physical cores that may be used."""
    return options.n_threads or usable_cores()


def most_kept(model: Model) -> int:
    """Kept prefixes that the cache may hold in addition to running sequences. A sliding window's cells and a state are
    allocated for each, used or not."""
    return N_KEPT_STATES if model.has_state or model.n_swa else N_KEPT


def _say(line: str) -> None:
    sys.stderr.write(f"engine: {line}\n")
