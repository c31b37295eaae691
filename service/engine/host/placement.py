"""Where a model's layers go, GPUs or CPU, and what is wrong with the settings for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.host.resources import ConfigurationError
from service.engine.host.vram import LEAST_CELLS, Need, layers_that_fit, room
from service.engine.host.weights import Weights
from service.engine.llama.devices import Device

NO_GPU_BUILD = "this build has no GPU support (CUDA=1 builds it)"


@dataclass(frozen=True, slots=True)
class Placement:
    """n_gpu_layers of n_layers layers (the blocks and the output layer) are on these GPUs; the rest is the CPU's."""

    gpus: tuple[Device, ...] = ()  # none: no GPU is used
    n_gpu_layers: int = 0
    n_layers: int = 0  # 0: not known
    warning: str = ""  # why there is no GPU where one could be

    @property
    def is_partial(self) -> bool:
        """Some layers are on GPUs, some on the CPU. llama.cpp's own choice of flash attention is wrong then: it tries
        a batch of one token per sequence, and from 32 rows on runs the CPU layers' products on the GPU, too. It
        concludes that the CPU can't compute that attention, and switches it off for all layers."""
        return bool(self.gpus) and 0 < self.n_gpu_layers < self.n_layers

    @property
    def has_cards_of_its_own(self) -> bool:
        """The whole cache is in discrete GPUs' memory, which nothing else on the machine needs."""
        return bool(self.gpus) and not self.is_partial and all(d.kind == "gpu" for d in self.gpus)

    @property
    def share(self) -> float:
        """Fraction of the blocks, and so of the KV cache, on the GPUs."""
        if not self.gpus or not self.n_layers:
            return float(bool(self.gpus))
        return max(0, self.n_gpu_layers - 1) / max(1, self.n_layers - 1)


def usable(devices: Sequence[Device], split_mode: str, main_gpu: int) -> tuple[Device, ...]:
    """The GPUs that llama.cpp will take: integrated ones only where there are no others. Raises ConfigurationError."""
    kinds = [d.kind for d in devices]
    gpus = [d for d in devices if d.kind == ("gpu" if "gpu" in kinds else "igpu")]
    if gpus and split_mode == "row" and not all(d.can_split_rows for d in gpus):
        raise ConfigurationError(f"RILL_SPLIT_MODE=row: {gpus[0].backend} can't split rows in this build; use layer")
    if gpus and split_mode == "none":
        if main_gpu >= len(gpus):
            raise ConfigurationError(f"RILL_MAIN_GPU={main_gpu}: there are {len(gpus)} GPUs, counted from 0")
        gpus = [gpus[main_gpu]]
    return tuple(gpus)


def place_layers(
    gpus: tuple[Device, ...], weights: Weights | None, needed: Need, *, asked: int, n_ctx: int | None, why_none: str
) -> Placement:
    """asked: RILL_N_GPU_LAYERS, -1 for as many as fit; n_ctx: RILL_N_CTX; why_none: no_gpu.cause.

    Raises ConfigurationError when layers are asked for that can't be on a GPU.
    """
    if asked == 0:
        return Placement()
    if not gpus:
        if asked > 0:
            raise ConfigurationError(f"RILL_N_GPU_LAYERS={asked}, but {why_none or NO_GPU_BUILD}")
        return Placement(warning=why_none)
    if weights is None or not all(d.n_bytes_total for d in gpus):  # nothing to calculate with
        return Placement(gpus, asked)
    n_layers = len(weights.blocks) + 1
    wanted = n_layers if asked < 0 else min(asked, n_layers)
    fit = layers_that_fit(
        weights, needed, n_bytes=room(gpus), n_cells=min(n_ctx or LEAST_CELLS, LEAST_CELLS), n_devices=len(gpus)
    )
    free = f"{room(gpus) / 2**20:.0f} MiB are free on {', '.join(d.description for d in gpus)}"
    if asked > 0 and fit < wanted:
        raise ConfigurationError(
            f"RILL_N_GPU_LAYERS={asked}: the model has {weights.n_bytes / 2**20:.0f} MiB in {n_layers} layers and "
            f"{free}; {fit} layers would fit, and -1 takes as many as fit"
        )
    if fit == 0:
        return Placement(warning=f"no layer fits: {free}")
    return Placement(gpus, min(wanted, fit), n_layers)
