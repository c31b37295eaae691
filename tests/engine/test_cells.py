"""cells.py: which cells are kept from use, and when they must go."""

from __future__ import annotations

from service.engine.cells import Cells


def test_cells_of_the_last_sequence_are_free_at_once() -> None:
    """With nobody left whose cells could get out of order, none is kept."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    assert not cells.forget(0)
    assert repr(cells) == "<Cells 0 live, 0 dead of 100>"


def test_cells_beside_living_ones_are_kept() -> None:
    """While others run, an ended sequence's cells are dead: neither living nor free."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 10)
    cells.grow(1, 10)
    assert cells.forget(0)
    assert repr(cells) == "<Cells 10 live, 10 dead of 100>"
    assert not cells.must_tidy(1)


def test_the_dead_go_when_they_outnumber_the_living() -> None:
    """More dead than living cells slow every step: they must go."""
    cells = Cells(100, in_order=True)
    cells.grow(0, 11)
    cells.grow(1, 10)
    cells.forget(0)
    assert cells.must_tidy(1)


def test_the_dead_go_when_their_room_is_needed() -> None:
    """A batch that fits only without the dead makes them go."""
    cells = Cells(40, in_order=True)
    cells.grow(0, 10)
    cells.grow(1, 15)
    cells.forget(0)
    assert not cells.must_tidy(15)
    assert cells.must_tidy(16)


def test_without_order_nothing_is_kept() -> None:
    """Where exactness is not promised, freed cells are taken again at once."""
    cells = Cells(100, in_order=False)
    cells.grow(0, 10)
    cells.grow(1, 10)
    assert not cells.forget(0)
    assert not cells.must_tidy(90)
