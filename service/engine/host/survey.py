"""The devices, their free memory and the model's size, and from these the placement: the I/O part of placement.py."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence

from service.engine.host import no_gpu, vram
from service.engine.host.placement import Placement, place_layers, usable
from service.engine.host.resources import Pool, free_memory, kv_bytes_per_token
from service.engine.host.vram import Need
from service.engine.host.weights import Weights
from service.engine.llama import devices
from service.engine.llama.devices import Device
from service.protocol.frames import GPU


def place(
    model: Weights | None,
    *,
    asked: int,
    split_mode: str,
    main_gpu: int,
    n_ctx: int | None,
    n_batch: int,
    n_outputs: int,
    kv_type: str,
    flash_attention: bool,
    errors: Sequence[str],
) -> tuple[Placement, Need]:
    """Where the layers go, and the memory needed in addition to them. Raises ConfigurationError.

    model: its file's header, None if that can't be read. asked: RILL_N_GPU_LAYERS.
    errors: llama.cpp's error lines since its start, which may say why there is no GPU.
    """
    gpus = usable(devices.found(), split_mode, main_gpu) if asked else ()
    total = sum(d.n_bytes_total for d in gpus)
    vram.settled(lambda: sum(d.n_bytes_free for d in again(gpus)), total, time.sleep)
    gpus = again(gpus)
    needed = Need(0, 0, 0)
    if gpus and model is not None:
        needed = vram.need(
            model.meta,
            kv_bytes_per_token=kv_bytes_per_token(model.meta.get, kv_type),
            n_batch=n_batch,
            n_outputs=n_outputs,
            flash_attention=flash_attention,
        )
    why_none = _why_none(errors) if asked and not gpus else ""
    return place_layers(gpus, model, needed, asked=asked, n_ctx=n_ctx, why_none=why_none), needed


def pools(kv_bytes: int, placement: Placement, need: Need, *, is_bound: bool) -> list[Pool]:
    """The memory pools that the KV cache will be in, once the weights are loaded.

    kv_bytes: of one token; is_bound: they are only an upper bound, so the GPUs' memory is not checked against them.
    """
    found = [Pool(kv_bytes * (1 - placement.share), free_memory())]
    gpus = again(placement.gpus)
    if gpus and all(d.n_bytes_total for d in gpus) and not is_bound:
        n_bytes = vram.room(gpus) - need.fixed
        found.append(Pool(need.cell * placement.share + need.mask, n_bytes, f" on {gpus[0].description}"))
    return found


def told(placement: Placement) -> list[GPU]:
    """The GPUs in use, as reported to the front."""
    return [GPU(d.name, d.description, d.n_bytes_total, d.n_bytes_free) for d in again(placement.gpus)]


def again(gpus: Sequence[Device]) -> tuple[Device, ...]:
    """The same devices with their memory as it is now."""
    now = {d.name: d for d in devices.found()} if gpus else {}
    return tuple(now[d.name] for d in gpus)


def _why_none(errors: Sequence[str]) -> str:
    cpu = devices.cpu_library()
    return no_gpu.cause(
        backends=devices.backends(),
        folder=cpu.parent if cpu else None,
        errors=errors,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        refusal=_refusal,
    )


def _refusal(library: str) -> str:
    """Why the dynamic linker does not load it; "" when it does."""
    try:
        ctypes.CDLL(library)
    except OSError as e:
        return str(e)
    return ""
