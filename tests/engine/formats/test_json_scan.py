"""Where a JSON value ends, in a text that arrives in pieces."""

from __future__ import annotations

import pytest

from service.engine.formats.json_scan import JsonScan


@pytest.mark.parametrize("value", ['{"a": "}\\"]"}', "[[], {}]", '"x\\\\"', "-1.5e3", "null", "{}", '"[{"'])
@pytest.mark.parametrize("behind", [",", " x", "}", "]"])
def test_the_end_of_a_value(value: str, behind: str) -> None:
    """Wherever the text is cut, the value ends where it ends."""
    text = value + behind
    for cut in range(len(text) + 1):
        scan = JsonScan()
        at = scan.advance(text[:cut], 0)
        assert scan.advance(text, at) == len(value) and scan.is_complete


@pytest.mark.parametrize("text", ["", "{", '"a', '{"a": ["}', "12"])
def test_a_value_that_goes_on(text: str) -> None:
    """It is not complete, and all of it belongs to the value."""
    scan = JsonScan()
    assert scan.advance(text, 0) == len(text) and not scan.is_complete
