"""Whose cells a sequence begins with: it shares them, waits for them, or leaves a copy for the next. Pure.

Sequence ids come from here and go back here: a prefix that is kept has one, as everyone who runs has.
"""

from __future__ import annotations

from collections.abc import Iterator

from .batch import Action, Batch, Forget, Share
from .cells import Cells
from .prefix import Kept, Match, Memory, Prefixes, Source
from .sequence import Sequence


class Sharing:
    """The prefixes that are known, and the ids that are free. Its actions go to a batch, or are returned to be done."""

    def __init__(self, cells: Cells, prefixes: Prefixes | None, n_ids: int) -> None:
        """prefixes: None shares nothing."""
        self._cells, self._prefixes = cells, prefixes
        self.free_ids = list(range(n_ids - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<Sharing {len(self.kept)} kept, {len(self.free_ids)} ids free>"

    @property
    def kept(self) -> list[Kept]:
        """Ended sequences whose cells are still known."""
        return self._prefixes.kept if self._prefixes else []

    def match(self, sequence: Sequence, running: list[Sequence]) -> tuple[Match | None, int]:
        """The longest beginning of it that is known, and where to leave a copy for others; 0: nowhere."""
        if self._prefixes is None:
            return None, 0
        match, boundary = self._prefixes.find(sequence, _before(sequence, running))
        if match:
            self._prefixes.touch(match.source)
        return match, boundary

    def take(self, sequence: Sequence, match: Match | None, boundary: int, batch: Batch) -> None:
        """Share what there is, or wait for it. boundary: where to leave a copy; 0: nowhere."""
        if boundary:
            sequence.boundaries.add(boundary)
        sequence.leader, sequence.n_awaited = None, 0
        if sequence.n_generated == 0:
            sequence.n_cached = match.n if match and match.ready else 0
        if match is None:
            return
        if match.ready:
            batch.actions.append(self._share(match.source, sequence.seq_id, match.n))
            sequence.n_past = match.n
        else:
            assert isinstance(match.source, Sequence)
            sequence.leader, sequence.n_awaited = match.source, match.n
            if self._prefixes and self._prefixes.memory is not Memory.CUTTABLE:
                match.source.boundaries.add(match.n)

    def go_on(self, running: list[Sequence], batch: Batch) -> None:
        """A new step: whoever stands at a boundary leaves a copy there, and those whose leader has read what they
        share, or is gone, wait no longer."""
        if self._prefixes:
            self._prefixes.fresh.clear()
        self._leave_copies(running, batch)
        for sequence in running:
            leader = sequence.leader
            if leader is not None and (leader.seq_id < 0 or leader.n_past >= sequence.n_awaited):
                self.take(sequence, *self.match(sequence, running), batch)

    def keep(self, sequence: Sequence, seq_id: int) -> list[Action]:
        """A sequence has ended: what it computed may be of use to others."""
        if self._prefixes is None or sequence.n_past == 0:
            return [self.free(seq_id)]
        return self._keep(Kept(seq_id, sequence.tokens[: sequence.n_past], sequence.scope))

    def evict(self) -> list[Action]:
        """Forget the least recently used of the kept ones."""
        kept = self._prefixes.evict() if self._prefixes else None
        return [self.free(kept.seq_id)] if kept else []

    def free(self, seq_id: int) -> Forget:
        """An id that nobody has any more, and its cells."""
        self.free_ids.append(seq_id)
        return Forget(seq_id, self._cells.drop(seq_id))

    def _leave_copies(self, running: list[Sequence], batch: Batch) -> None:
        for sequence in running:
            if sequence.n_past in sequence.boundaries:
                sequence.boundaries.discard(sequence.n_past)
                if not self.free_ids:
                    batch.actions += self.evict()
                if self._prefixes and self.free_ids:
                    seq_id = self.free_ids.pop()
                    batch.actions.append(self._share(sequence, seq_id, sequence.n_past))
                    batch.actions += self._keep(Kept(seq_id, sequence.tokens[: sequence.n_past], sequence.scope))

    def _keep(self, kept: Kept) -> list[Action]:
        assert self._prefixes is not None
        return [self.free(k.seq_id) for k in self._prefixes.keep(kept)]

    def _share(self, source: Source, seq_id: int, n: int) -> Share:
        self._cells.share(source.seq_id, seq_id, n)
        if self._prefixes:
            self._prefixes.fresh.add(seq_id)
        return Share(source.seq_id, seq_id, n)


def _before(sequence: Sequence, running: list[Sequence]) -> Iterator[Sequence]:
    """Those that can't be waiting for it: who runs since before it does."""
    for s in running:
        if s is sequence:
            return
        yield s
