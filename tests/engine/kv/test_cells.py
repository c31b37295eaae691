"""cells.py: which sequence holds which cells, which are dead, when a compaction is due, and what it copies in order."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from service.engine.kv.cells import LEAST_SCATTERED, CellCopy, Cells


def test_cells_of_the_last_sequence_are_free_at_once() -> None:
    """Without a live sequence with cells that could get out of order, no cell is dead."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    assert not cells.drop(0)
    assert repr(cells) == "<Cells 0 live, 0 dead of 100>"


def test_cells_next_to_live_ones_are_dead() -> None:
    """While other sequences run, an ended sequence's cells are dead: neither live nor free."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    cells.grow(1, 10)
    assert cells.drop(0)
    assert repr(cells) == "<Cells 10 live, 10 dead of 100>"
    assert not cells.must_tidy(1)


def test_dead_cells_are_freed_when_they_outnumber_live_ones() -> None:
    """More dead than live cells slow every step: compaction is due."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 11)
    cells.grow(1, 10)
    cells.drop(0)
    assert cells.must_tidy(1)


def test_dead_cells_are_freed_when_their_room_is_needed() -> None:
    """A batch that fits only without the dead cells makes compaction due."""
    cells = Cells(40, in_order=True)
    cells.grow(0, 10)
    cells.grow(1, 15)
    cells.drop(0)
    assert not cells.must_tidy(15)
    assert cells.must_tidy(16)
    assert cells.tidy() == [CellCopy(1, -1, 0, 15)]
    assert (cells.n_dead, cells.must_tidy(25)) == (0, False)


def test_without_order_no_cell_is_dead() -> None:
    """Without the guarantee of exactness freed cells are reused at once."""
    cells = Cells(100, in_order=False)
    cells.grow(0, 10)
    cells.grow(1, 10)
    assert not cells.drop(0)
    assert not cells.must_tidy(90)


def test_shared_cells_are_counted_once() -> None:
    """A prefix of 6 cells held by three sequences takes 6 cells, and each of them counts it as its own."""
    cells = Cells(100)
    cells.grow(0, 10)
    cells.share(0, 1, 6)
    cells.share(1, 2, 6)
    cells.grow(2, 5)
    assert repr(cells) == "<Cells 15 live, 0 dead of 100>"
    assert [cells.held(ids) for ids in ([0], [1], [2], [0, 1], [1, 2], [0, 1, 2], [3], [])] == [
        *(10, 6, 11, 10, 11, 15, 0, 0)
    ]


def test_shared_cells_live_until_their_last_holder() -> None:
    """A holder that leaves frees only the cells that it held alone."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    cells.share(0, 1, 6)
    cells.drop(0)
    assert (cells.n_live, cells.n_dead) == (6, 4)
    cells.drop(1)
    assert (cells.n_live, cells.n_dead) == (0, 0)


def test_shared_cells_are_copied_once() -> None:
    """In a compaction each sequence shares with one that was already copied what it shares with it now."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 8)
    cells.share(0, 1, 6)
    cells.grow(1, 3)
    cells.share(1, 2, 7)
    cells.share(2, 3, 7)
    cells.grow(3, 1)
    assert cells.tidy() == [CellCopy(0, -1, 0, 8), CellCopy(1, 0, 6, 3), CellCopy(2, 1, 7, 0), CellCopy(3, 1, 7, 1)]


def test_cells_of_rejected_draft_tokens() -> None:
    """Behind all others they are free again, between others' they are dead if in order; without order they are always
    free."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    cells.grow(1, 10)
    assert cells.cut(0, 8, at_end=False)
    assert not cells.cut(1, 7, at_end=True)
    assert (cells.n_live, cells.n_dead) == (15, 2)
    loose = Cells(100)
    loose.grow(0, 10)
    assert not loose.cut(0, 8, at_end=False)
    assert (loose.n_live, loose.n_dead) == (8, 0)


def test_in_order_an_eighth_is_not_used_for_draft_tokens() -> None:
    """Their dead cells must not cause a compaction every few steps."""
    for in_order, n_spare in ((True, 50), (False, 60)):
        cells = Cells(140, in_order=in_order)
        cells.grow(0, 80)
        assert cells.n_spare == n_spare
    cells = Cells(140, in_order=True)
    cells.grow(0, 80)
    cells.cut(0, 72, at_end=False)
    assert cells.n_spare == 140 - 72 - 8 - 9


def test_holes_are_counted_until_a_compaction() -> None:
    """A long prompt that would fill many holes is worth a compaction; a short one is not, nor is any in a very full
    cache."""
    cells = Cells(100_000)
    cells.grow(0, 5000)
    cells.grow(1, 300)
    assert not cells.should_tidy(1000)
    cells.drop(1)
    assert cells.should_tidy(1000) and cells.should_tidy(1200)
    assert not cells.should_tidy(1300), "most of it will be behind all others"
    assert not cells.should_tidy(LEAST_SCATTERED - 1)
    cells.grow(2, 20_000)
    assert not cells.should_tidy(1000)
    cells.drop(2)
    cells.tidy()
    assert not cells.should_tidy(1000)
    cells.drop(0)
    assert cells.n_holes == 0, "an empty cache has no holes"


EVENTS = st.tuples(
    st.sampled_from(["grow", "share", "cut", "drop", "tidy"]), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)
)


@given(events=st.lists(EVENTS, max_size=30), in_order=st.booleans())
def test_against_a_model_of_numbered_cells(events: list[tuple[str, int, int, int]], in_order: bool) -> None:
    """Counts and copies equal those of a model with a list of numbered cells per sequence."""
    cells, numbers = Cells(1000, in_order=in_order), count()
    lists: dict[int, list[int]] = {i: [] for i in range(5)}
    dead: set[int] = set()
    for event, seq_id, other, n in events:
        if event == "grow" and n:
            cells.grow(seq_id, n)
            lists[seq_id] = lists[seq_id] + [next(numbers) for _ in range(n)]
        elif event == "share" and not lists[seq_id] and 0 < n <= len(lists[other]):
            cells.share(other, seq_id, n)
            lists[seq_id] = lists[other][:n]
        elif event == "cut" and lists[seq_id] and n:
            before, at_end = union(lists), bool(other % 2)
            lists[seq_id] = lists[seq_id][:n]
            dead |= before - union(lists) if in_order and not at_end else set()
            assert cells.cut(seq_id, n, at_end=at_end) == (in_order and not at_end)
        elif event == "drop":
            before = union(lists)
            lists[seq_id] = []
            dead |= before - union(lists)
            keep = in_order and bool(union(lists))
            assert cells.drop(seq_id) == keep
            dead = dead if keep else set()
        elif event == "tidy":
            copied: dict[int, list[int]] = {-1: []}
            for copy in cells.tidy():
                own = lists[copy.seq_id][copy.n_shared :]
                assert len(own) == copy.n_own and not set(own) & union(copied), "each cell once"
                copied[copy.seq_id] = copied[copy.source][: copy.n_shared] + own
            assert copied == {-1: []} | {i: held for i, held in lists.items() if held}
            dead = set()
        assert (cells.n_live, cells.n_dead) == (len(union(lists)), len(dead))
        assert cells.held([seq_id, other]) == len({*lists[seq_id], *lists[other]})


def union(lists: dict[int, list[int]]) -> set[int]:
    return {cell for cells in lists.values() for cell in cells}
