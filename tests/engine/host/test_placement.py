"""Which layers are placed on which device, and which settings are refused."""

from __future__ import annotations

import pytest

from service.engine.host.placement import NO_GPU_BUILD, Placement, place_layers, usable
from service.engine.host.resources import ConfigurationError
from service.engine.host.vram import LEAST_CELLS, MARGIN_BYTES, Need
from service.engine.host.weights import Weights
from service.engine.llama.devices import Device

MIB = 1 << 20
WEIGHTS = Weights(blocks=(100 * MIB,) * 4, n_bytes_output=50 * MIB, n_bytes_input=50 * MIB)


def card(n_mib: int = 1000, *, name: str = "CUDA0", kind: str = "gpu", rows: bool = False, total: int = 8000) -> Device:
    """A card with this much free memory in addition to the margin."""
    return Device(name, "card", kind, "CUDA", None, MARGIN_BYTES + n_mib * MIB, total * MIB, can_split_rows=rows)


CPU = card(kind="cpu", name="CPU")


def place(*gpus: Device, asked: int = -1, n_ctx: int | None = None, cell: float = 0, why_none: str = "") -> Placement:
    return place_layers(gpus, WEIGHTS, Need(cell, 0, 0), asked=asked, n_ctx=n_ctx, why_none=why_none)


def test_usable_gpus_are_those_that_llama_cpp_uses() -> None:
    """All discrete ones, the integrated ones only if there are no others; with split_mode none the main one."""
    a, b, small = card(), card(name="CUDA1"), card(name="iGPU", kind="igpu")
    assert usable([CPU, a, small, b], "layer", 0) == (a, b)
    assert usable([CPU, small], "layer", 0) == (small,)
    assert usable([CPU, a, b], "none", 1) == (b,)
    assert usable([CPU], "row", 5) == ()


@pytest.mark.parametrize(("mode", "main", "words"), [("row", 0, "RILL_SPLIT_MODE=row"), ("none", 1, "RILL_MAIN_GPU=1")])
def test_unsupported_settings_are_refused(mode: str, main: int, words: str) -> None:
    """Each is refused by its name."""
    with pytest.raises(ConfigurationError, match=words):
        usable([CPU, card()], mode, main)
    assert usable([CPU, card(rows=True)], "row", 0)


@pytest.mark.parametrize(
    ("asked", "n_mib", "expected"),
    [
        (-1, 1000, 5),
        (-1, 449, 4),
        (-1, 50, 1),
        (3, 1000, 3),
        (99, 1000, 5),
        (3, 250, 3),  # to the byte
    ],
)
def test_layers(asked: int, n_mib: int, expected: int) -> None:
    """-1 uses as many layers as fit, an explicit number is used unchanged."""
    placement = place(card(n_mib), asked=asked)
    assert (placement.n_gpu_layers, placement.n_layers, placement.warning) == (expected, 5, "")
    assert placement.is_partial == (expected < 5)


def test_cells_are_reserved_before_layers() -> None:
    """Up to 4,096 of them, or the requested number if that is less: a cache can be smaller, a layer can't."""
    cell = 400 * MIB / LEAST_CELLS
    assert place(card(850), cell=cell).n_gpu_layers == 5
    assert place(card(849), cell=cell).n_gpu_layers == 4
    assert place(card(849), cell=cell, n_ctx=10**6).n_gpu_layers == 4
    assert place(card(650), cell=cell, n_ctx=LEAST_CELLS // 2).n_gpu_layers == 5


def test_layers_that_do_not_fit() -> None:
    """A number that is too large is refused, with the number that fits."""
    with pytest.raises(
        ConfigurationError, match=r"RILL_N_GPU_LAYERS=4: .* 249 MiB are free on card; 2 layers would fit"
    ):
        place(card(249), asked=4)


def test_no_layer_fits() -> None:
    """With -1 the model then runs on the CPU, with a warning."""
    placement = place(card(49))
    assert placement == Placement(warning="no layer fits: 49 MiB are free on card")


def test_no_gpu() -> None:
    """-1 works without one, with the reason if there could be one; an explicit number is refused, also in a build
    without GPUs."""
    assert place(why_none="no driver") == Placement(warning="no driver")
    assert place() == Placement()
    for why in ("no driver", ""):
        with pytest.raises(
            ConfigurationError, match=f"RILL_N_GPU_LAYERS=7, but {'no driver' if why else 'this build'}"
        ):
            place(asked=7, why_none=why)
    assert NO_GPU_BUILD.startswith("this build")


def test_zero_layers() -> None:
    """0 uses no card, and needs no reason."""
    assert place(card(), asked=0) == place(asked=0, why_none="no driver") == Placement()


def test_unknown_sizes() -> None:
    """A card that does not report its memory, or a file that can't be read, leaves the number to llama.cpp."""
    unknown = Device("X0", "card", "gpu", "X", None, 0, 0, can_split_rows=False)
    assert place(unknown) == Placement((unknown,), -1)
    assert place_layers((card(),), None, Need(0, 0, 0), asked=3, n_ctx=None, why_none="") == Placement((card(),), 3)


def test_where_the_cache_is_allocated() -> None:
    """In the cards' memory if all layers are on discrete cards, not with some of them or on an integrated GPU."""
    assert Placement((card(),), 5, 5).has_cards_of_its_own
    assert not Placement((card(),), 4, 5).has_cards_of_its_own
    assert not Placement((card(kind="igpu"),), 5, 5).has_cards_of_its_own
    assert not Placement().has_cards_of_its_own


@pytest.mark.parametrize(
    ("placement", "share"),
    [
        (Placement(), 0),
        (Placement((card(),), -1), 1),  # unknown: as if all
        (Placement((card(),), 5, 5), 1),
        (Placement((card(),), 3, 5), 0.5),  # the output layer and two of four blocks
        (Placement((card(),), 1, 5), 0),
    ],
)
def test_share_of_the_cache(placement: Placement, share: float) -> None:
    """Each block's cells are on its weights' device; the output layer has none."""
    assert placement.share == share
