"""The products that this processor has, and that weights are really kept in the chosen buffer type."""

from __future__ import annotations

import pytest

from service.engine.host import buffer_timing
from service.engine.host.buffer_timing import CPUProducts
from service.engine.host.buffer_types import ROWS
from service.engine.host.weights import Kind

Q4_0, Q8_0, F32 = (Kind(number, 5 << 20) for number in (2, 8, 0))


@pytest.fixture(scope="module")
def products() -> CPUProducts:
    found = buffer_timing.products()
    assert found is not None, "the engine was built without deploy/patches/0013"
    return found


def test_the_plain_buffer_type_holds_everything(products: CPUProducts) -> None:
    """It is the last one, and the only one for types of weights without a repacked product."""
    assert products.holders(F32) == ["CPU"]
    assert products.holders(Q4_0)[-1] == products.holders(Q8_0)[-1] == "CPU"


def test_more_rows_take_longer(products: CPUProducts) -> None:
    """In each buffer type that can hold it the products are really computed: 64 rows cost more than one."""
    for buffer in products.holders(Q4_0):
        seconds = products.seconds(Q4_0, buffer)
        assert len(seconds) == len(ROWS)
        assert 0 < seconds[0] < seconds[-1]
