"""Operations on the KV cache's cells, as values: decided in this package, carried out by llama/context.py. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forget:
    """Free a sequence id's cells. dead: keep those that only it holds as dead cells (cells.py)."""

    seq_id: int
    dead: bool


@dataclass(frozen=True, slots=True)
class Share:
    """A sequence id without cells shares the first n of the source's."""

    source: int
    seq_id: int
    n: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A sequence id keeps its first n cells. dead: keep the others as dead cells (cells.py)."""

    seq_id: int
    n: int
    dead: bool


Action = Forget | Share | Cut
