"""What fits into a card's free memory, computed by hand; and the wait for the memory of a killed process."""

from __future__ import annotations

import pytest

from service.engine.host.vram import (
    MARGIN_BYTES,
    PATIENCE_S,
    QUIET_S,
    Need,
    default_cells,
    layers_that_fit,
    need,
    room,
    settled,
)
from service.engine.host.weights import Weights
from service.engine.llama.devices import Device

GIB = 1 << 30
WEIGHTS = Weights(blocks=(10, 10, 10, 10), n_bytes_output=5, n_bytes_input=100)


def device(free: int, total: int) -> Device:
    return Device("CUDA0", "card", "gpu", "CUDA", None, free, total, can_split_rows=False)


def test_room_is_what_is_free_less_a_margin() -> None:
    """1 GiB on a small card, 5 % on a large one, on each of them; the result is never negative."""
    assert room([device(7 * GIB, 8 * GIB)]) == 6 * GIB
    assert room([device(70 * GIB, 80 * GIB), device(7 * GIB, 8 * GIB)]) == 66 * GIB + 6 * GIB
    assert room([device(MARGIN_BYTES - 1, 8 * GIB)]) == 0
    assert room([]) == 0


@pytest.mark.parametrize(
    ("n_bytes", "needed", "n_cells", "n_devices", "expected"),
    [
        (4, Need(0, 0, 0), 0, 1, 0),
        (5, Need(0, 0, 0), 0, 1, 1),  # the output layer comes first
        (15, Need(0, 0, 0), 0, 1, 2),
        (44, Need(0, 0, 0), 0, 1, 4),
        (45, Need(0, 0, 0), 0, 1, 5),  # the input's 100 bytes stay with the CPU
        (45, Need(0, 0, 1), 0, 1, 4),
        (45, Need(4, 0, 0), 10, 1, 3),  # each block includes its quarter of the cache
        (85, Need(4, 0, 0), 10, 1, 5),
        (84, Need(4, 0, 0), 10, 1, 4),
        (45, Need(0, 1, 0), 10, 1, 4),
        (45, Need(0, 0, 0), 0, 2, 4),  # one of two cards may have room for half a layer
    ],
)
def test_layers_that_fit(n_bytes: int, needed: Need, n_cells: int, n_devices: int, expected: int) -> None:
    """Layers with their share of the cache, after the fixed part, in llama.cpp's order."""
    assert layers_that_fit(WEIGHTS, needed, n_bytes=n_bytes, n_cells=n_cells, n_devices=n_devices) == expected


META = {
    "general.architecture": "x",
    "x.feed_forward_length": "1000",
    "x.embedding_length": "100",
    "x.attention.head_count": "4",
}


def test_need() -> None:
    """Activations and logits grow with the batch; without flash attention a score for each head, row and cell is
    added."""
    flash = need(META, kv_bytes_per_token=7, n_batch=10, n_outputs=2, flash_attention=True)
    assert flash == Need(cell=7, mask=40, fixed=4 * 10 * (3000 + 800) + 2 * (1 << 20))
    assert need(META, kv_bytes_per_token=7, n_batch=10, n_outputs=2, flash_attention=False).mask == 10 * (8 + 20)
    assert need({}, kv_bytes_per_token=0, n_batch=10, n_outputs=0, flash_attention=True) == Need(0, 40, 0)


@pytest.mark.parametrize(
    ("n_ctx_train", "n_seq", "expected"),
    [(131072, 32, 131072), (8192, 32, 131072), (1024, 32, 32768), (131072, 64, 262144)],
)
def test_default_cells(n_ctx_train: int, n_seq: int, expected: int) -> None:
    """4,096 for each stream, but at least one whole context, and no more than all streams could fill."""
    assert default_cells(n_ctx_train, n_seq) == expected


class Card:
    """Free memory over time: one value per reading, the last one stays."""

    def __init__(self, *free: int) -> None:
        self.free, self.waited_s = list(free), 0.0

    def __call__(self) -> int:
        return self.free[0]

    def pause(self, seconds: float) -> None:
        self.waited_s += seconds
        if len(self.free) > 1:
            del self.free[0]


@pytest.mark.parametrize(
    ("free", "least_s", "most_s"),
    [
        ([95], 0, 0),  # there is no other process
        ([10, 10, 50, 95], 0.25, 0.35),  # the killed process's memory is released, which is all of it
        ([10, 20, 30, 40, 41], 0.4 + QUIET_S - 0.01, 0.4 + QUIET_S + 0.11),  # another process has the rest
        ([40], QUIET_S - 0.01, QUIET_S + 0.11),
        (list(range(1, 89)), PATIENCE_S - 0.01, PATIENCE_S + 0.11),  # it never settles: the wait is limited
    ],
)
def test_settled(free: list[int], least_s: float, most_s: float) -> None:
    """It waits while free memory rises, and no longer than necessary."""
    card = Card(*free)
    settled(card, 100, card.pause)
    assert least_s <= card.waited_s <= most_s


def test_a_card_without_figures_is_not_waited_for() -> None:
    """0 of 0 bytes are free."""
    card = Card(0)
    settled(card, 0, card.pause)
    assert card.waited_s == 0
