"""choices.py: combined ids, and places in several streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.streams.choices import MAX_CHOICES, MAX_N, Combined, Place

FIRST = "0123456789abcdef" * 2
combinations = st.builds(Combined, st.just(FIRST), st.integers(1, 8), st.integers(1, 8))


@given(combinations)
def test_an_id_tells_which_streams_it_names(combined: Combined) -> None:
    """The first one's id is in it, and the others follow from that; all are ids of streams."""
    assert Combined.parse(combined.id) == combined
    assert len(set(combined.ids)) == combined.n_prompts * combined.n and combined.ids[0] == FIRST
    assert all(len(id) == 32 and int(id, 16) for id in combined.ids)


@given(combinations, st.data())
def test_an_event_id_tells_each_streams_place(combined: Combined, data: st.DataObject) -> None:
    """Whatever was read of each; also behind the streams' ends."""
    place = Place.start(combined)
    for k in data.draw(st.lists(st.integers(0, len(combined.ids) - 1), max_size=9)):
        n, checksum = data.draw(st.integers(0, 10**9)), data.draw(st.integers(0, 2**32 - 1))
        event_id = f"{combined.ids[k]}.{n}.{checksum:08x}"
        place = place.after(k, event_id)
        assert place.event_ids()[k] == event_id
    for now in (place, place.after_tail(1), place.after_tail(2)):
        assert Place.parse(str(now)) == now


@pytest.mark.parametrize(
    "id",
    ["", FIRST, f"{FIRST}-1", f"{FIRST}-0x2", f"{FIRST}-1x{MAX_N + 1}", f"{FIRST}-{MAX_CHOICES}x2", f"{FIRST}-1x2 "],
)
def test_no_combined_id(id: str) -> None:
    """Another number of choices than there may be, or anything else."""
    assert Combined.parse(id) is None
    assert Place.parse(f"{id}.-,-") is None


@pytest.mark.parametrize("rest", ["", ".", ".-", ".-,-,-", ".-,1", ".-,1:x", ".01:00000000,-", ".-,-;3", ".-,-;x"])
def test_no_place(rest: str) -> None:
    """Not the id of an event of two streams."""
    assert Place.parse(f"{FIRST}-1x2{rest}") is None
