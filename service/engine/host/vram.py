"""What fits into the free memory of the GPUs: layers of a model, cells of its KV cache. Pure; memory in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from service.engine.host.weights import Weights
from service.engine.llama.devices import Device

# Left free on each device, whichever is more: llama.cpp's own --fit leaves 1 GiB (common.h, fit_params_target) for
# CUDA's workspaces and pools, which grow while running and abort the process when they can't; 5 % of a large card.
MARGIN_BYTES = 1 << 30
MARGIN_SHARE = 0.05
# Cells for each stream that may run, and at least one whole context. More cost time as well as memory: llama.cpp scans
# all of them (0.6 us for 1,000) whenever it frees a sequence's cells, several times a step.
CELLS_A_STREAM = 4096
LEAST_CELLS = 4096  # --fit's least context (fit_params_min_ctx): rather than have fewer, layers stay on the CPU
MASK_BYTES = 4  # for each row and cell: 2.25 measured with flash attention, for the f16 mask and its copies
N_VOCAB = 1 << 18  # the largest vocabularies: a row of logits takes 1 MiB

# The driver frees a killed process's memory some time after the process is gone.
UNUSED = 0.9  # of a device's memory free: no other process uses it
LOOK_S = 0.1
QUIET_S = 0.5  # free memory not risen for this long: the rest is another process's, which stays
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Need:
    """GPU memory that a model needs in addition to its layers: see `need`."""

    cell: float  # for each cell of the KV cache, of all layers together
    mask: float  # for each cell, wherever its layers are
    fixed: int  # whatever the number of cells and layers


def need(
    meta: Mapping[str, str], *, kv_bytes_per_token: int, n_batch: int, n_outputs: int, flash_attention: bool
) -> Need:
    """From the GGUF's metadata: activations and logits of a batch, and the attention's scores where they are kept."""
    arch = meta.get("general.architecture", "")

    def number(key: str) -> int:
        text = meta.get(f"{arch}.{key}", "")
        return int(text) if text.isdigit() else 0

    # Three rows of the feed-forward's width and eight of the model's (measured with an 8B llama: 3 and 4.3).
    activations = 4 * n_batch * (3 * number("feed_forward_length") + 8 * number("embedding_length"))
    # Without flash attention there is an f32 score for each head, row and cell (measured with 32 heads: 148 bytes).
    row = MASK_BYTES if flash_attention else 8 + 5 * number("attention.head_count")
    return Need(kv_bytes_per_token, n_batch * row, activations + 4 * n_outputs * N_VOCAB)


def room(devices: Iterable[Device]) -> int:
    """What may be used of the free memory of these devices."""
    return sum(max(0, d.n_bytes_free - max(MARGIN_BYTES, int(MARGIN_SHARE * d.n_bytes_total))) for d in devices)


def layers_that_fit(weights: Weights, needed: Need, *, n_bytes: int, n_cells: int, n_devices: int = 1) -> int:
    """How many layers fit into n_bytes with n_cells cells, in llama.cpp's order: the output layer first, then the
    blocks from the last one on. Layers are not divided: on several devices each may lack room for a part of one."""
    blocks = weights.blocks
    free = n_bytes - needed.fixed - needed.mask * n_cells - max(blocks, default=0) * (n_devices - 1)
    cells = needed.cell * n_cells / max(1, len(blocks))
    n = 0
    for size in (weights.n_bytes_output, *(size + cells for size in reversed(blocks))):
        free -= size
        if free < 0:
            break
        n += 1
    return n


def default_cells(n_ctx_train: int, n_seq: int) -> int:
    """The KV budget on a GPU with enough memory."""
    return min(n_ctx_train * n_seq, max(n_ctx_train, n_seq * CELLS_A_STREAM))


def settled(free: Callable[[], int], n_bytes_total: int, pause: Callable[[float], None]) -> None:
    """Return once nearly all memory is free, or no more gets free, or after PATIENCE_S. `pause` sleeps, in seconds."""
    most, quiet_s, waited_s = free(), 0.0, 0.0
    while most < UNUSED * n_bytes_total and quiet_s < QUIET_S and waited_s < PATIENCE_S:
        pause(LOOK_S)
        now = free()
        waited_s += LOOK_S
        quiet_s = 0.0 if now > most else quiet_s + LOOK_S
        most = max(most, now)
