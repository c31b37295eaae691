"""Which KV cells may be used again: counts only, Context carries out.

Attention adds up in the order of the cells, and the last bit of the sum depends on it. When a sequence ends, llama.cpp
gives its cells to the next tokens of the others, before their own older ones: 7 of 64 answers of the starter then
differed from those given alone. Where text is to be exact, freed cells are therefore kept as dead ones, until they are
more than the living or are needed; then the living are copied together. A token is copied once on average.
"""

from __future__ import annotations


class Cells:
    """The cells of one context: `live` of each sequence that has any, and `n_dead` that are kept from use."""

    def __init__(self, n_cells: int, *, in_order: bool) -> None:
        self.n_cells, self.in_order = n_cells, in_order
        self.live: dict[int, int] = {}
        self.n_dead = 0

    def __repr__(self) -> str:
        return f"<Cells {sum(self.live.values())} live, {self.n_dead} dead of {self.n_cells}>"

    def grow(self, seq_id: int, n: int) -> None:
        """A sequence took n cells."""
        self.live[seq_id] = self.live.get(seq_id, 0) + n

    def forget(self, seq_id: int) -> bool:
        """A sequence ends. True: its cells must be kept, for others run; False: all dead cells can go with it."""
        n = self.live.pop(seq_id, 0)
        keep = self.in_order and bool(self.live)
        self.n_dead = self.n_dead + n if keep else 0
        return keep

    def must_tidy(self, n: int) -> bool:
        """Whether the dead must go before n more cells are taken."""
        n_live = sum(self.live.values())
        return self.n_dead > n_live or (self.n_dead > 0 and n_live + self.n_dead + n > self.n_cells)
