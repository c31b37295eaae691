"""Prefix sharing: a sequence shares cached cells, waits for them, or leaves a copy for later ones. Pure.

Sequence ids are allocated and freed here: each kept prefix has one, as each running sequence has.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.engine.kv.actions import Action, Forget, Share
from service.engine.kv.cells import Cells
from service.engine.kv.memory import Memory
from service.engine.kv.prefixes import Kept, Match, Prefixes, Source
from service.engine.sequences.sequence import Sequence


class Sharing:
    """The prefix cache, and the ids that are free. Its decisions are appended to the actions of a step, or returned to
    be carried out."""

    def __init__(self, cells: Cells, prefixes: Prefixes | None, n_ids: int) -> None:
        """prefixes: None shares nothing."""
        self.cells, self._prefixes = cells, prefixes
        self.free_ids = list(range(n_ids - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<Sharing {len(self.kept)} kept, {len(self.free_ids)} ids free>"

    @property
    def kept(self) -> list[Kept]:
        """The kept prefixes."""
        return self._prefixes.kept if self._prefixes else []

    def match(self, sequence: Sequence, running: list[Sequence]) -> tuple[Match | None, int]:
        """Its longest cached prefix, and the boundary at which to leave a copy for others; 0: none."""
        if self._prefixes is None or not sequence.takes_cached or sequence.n_unscored:  # these need logits of its own
            return None, 0
        match, boundary = self._prefixes.find(sequence, _before(sequence, running))
        if match:
            self._prefixes.touch(match.source)
        return match, boundary

    def take(self, sequence: Sequence, match: Match | None, boundary: int, actions: list[Action]) -> None:
        """Share the matched prefix, or wait for it. boundary: where to leave a copy; 0: none."""
        if boundary:
            sequence.boundaries.add(boundary)
        sequence.prefix_source, sequence.n_awaited = None, 0
        if sequence.n_generated == 0:
            sequence.n_cached = match.n if match and match.ready else 0
        if match is None:
            return
        if match.ready:
            actions.append(self._share(match.source, sequence.seq_id, match.n))
            sequence.n_past = match.n
        else:
            assert isinstance(match.source, Sequence)
            sequence.prefix_source, sequence.n_awaited = match.source, match.n
            if self._prefixes and self._prefixes.memory is not Memory.CUTTABLE:
                match.source.boundaries.add(match.n)

    def go_on(self, running: list[Sequence], actions: list[Action]) -> None:
        """A new step: a sequence at a boundary leaves a copy there, and those that wait stop waiting once their source
        has prefilled the shared prefix, or is gone."""
        if self._prefixes:
            self._prefixes.fresh.clear()
        self._leave_copies(running, actions)
        for sequence in running:
            source = sequence.prefix_source
            if source is not None and (source.seq_id < 0 or source.n_past >= sequence.n_awaited):
                self.take(sequence, *self.match(sequence, running), actions)

    def keep(self, sequence: Sequence, seq_id: int) -> list[Action]:
        """A sequence has ended: keep its cells for others to share."""
        if self._prefixes is None or sequence.n_past == 0:
            return [self.free(seq_id)]
        return self._keep(Kept(seq_id, sequence.tokens[: sequence.n_past], sequence.scope))

    def evict(self) -> list[Action]:
        """Evict the least recently used kept prefix."""
        kept = self._prefixes.evict() if self._prefixes else None
        return [self.free(kept.seq_id)] if kept else []

    def free(self, seq_id: int) -> Forget:
        """Free an id that is no longer in use, and its cells."""
        self.free_ids.append(seq_id)
        return Forget(seq_id, self.cells.drop(seq_id))

    def _leave_copies(self, running: list[Sequence], actions: list[Action]) -> None:
        for sequence in running:
            if sequence.n_past in sequence.boundaries:
                sequence.boundaries.discard(sequence.n_past)
                if not self.free_ids:
                    actions += self.evict()
                if self._prefixes and self.free_ids:
                    seq_id = self.free_ids.pop()
                    actions.append(self._share(sequence, seq_id, sequence.n_past))
                    actions += self._keep(Kept(seq_id, sequence.tokens[: sequence.n_past], sequence.scope))

    def _keep(self, kept: Kept) -> list[Action]:
        assert self._prefixes is not None
        return [self.free(k.seq_id) for k in self._prefixes.keep(kept)]

    def _share(self, source: Source, seq_id: int, n: int) -> Share:
        self.cells.share(source.seq_id, seq_id, n)
        if self._prefixes:
            self._prefixes.fresh.add(seq_id)
        return Share(source.seq_id, seq_id, n)


def _before(sequence: Sequence, running: list[Sequence]) -> Iterator[Sequence]:
    """Those that can't be waiting for it: all that were admitted before it."""
    for s in running:
        if s is sequence:
            return
        yield s
