"""The draft model: a small model of the same vocabulary proposes draft tokens, by greedy decoding."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.engine.kv.memory import Memory
from service.engine.kv.prefixes import n_common
from service.engine.llama.context import Context, NoRoom
from service.engine.llama.model import LlamaError, Model
from service.engine.scheduling.prefill_chunks import PrefillChunker
from service.engine.sequences.sequence import Sequence
from service.engine.speculation.costs import DecodeCost

# Vocabularies of one family are padded to different sizes; llama.cpp's own speculative decoding allows as much.
MOST_MISSING = 128


class DraftModel:
    """It has its own context, with each sequence's tokens as far as prefilled there. One thread at a time."""

    def __init__(
        self,
        model: Model,
        context: Context,
        costs: DecodeCost,
        slices: PrefillChunker,
        *,
        n_vocab: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.monotonic,
    ) -> None:
        """costs: of a decode by its rows, as `clock` measures them. slices: sizes its prefill chunks, for steps timed
        with `wall`. n_vocab: of the large model."""
        self.model, self.context, self.costs, self.clock = model, context, costs, clock
        self._slices, self._wall = slices, wall
        self._n_vocab = min(n_vocab, model.n_vocab)
        self._held: dict[str, tuple[int, list[int]]] = {}  # by sequence: its id here, its tokens; last used last
        self._free_ids = list(range(context.n_ids))

    def __repr__(self) -> str:
        n_held = sum(len(tokens) for _, tokens in self._held.values())
        return f"<DraftModel {self.model.name}, {len(self._held)} sequences, {n_held}/{self.context.n_ctx} cells>"

    def guess(self, sequences: list[Sequence], n: int) -> list[list[int]]:
        """n draft tokens for each sequence, cut off before an end token. None for those that are not prefilled here
        yet: a call prefills no more than one chunk, since all these sequences wait for it."""
        rows: list[tuple[Sequence, int, list[int]]] = []
        asking = {s.id for s in sequences}
        room = min(self._slices.size(len(sequences), 1) + 2 * len(sequences), self.context.n_batch)
        for s in sequences:
            if room > 0 and self._make_room(s, n, asking):
                seq_id, held = self._held[s.id]
                rows.append((s, seq_id, s.tokens[len(held) : len(held) + room]))
                room -= len(rows[-1][2])
        guesses: dict[str, list[int]] = {s.id: [] for s in sequences}
        try:
            for _ in range(n):
                if not rows:
                    break
                rows = self._next(rows, guesses)
        except NoRoom:  # despite the count: a sliding window has its own cells
            for s in sequences:
                self.forget(s.id)
        return [guesses[s.id] for s in sequences]

    def forget(self, id: str) -> None:
        """A sequence has ended, or is evicted."""
        if held := self._held.pop(id, None):
            self.context.forget(held[0])
            self._free_ids.append(held[0])

    def close(self) -> None:
        """Free context and weights."""
        self.context.close()
        self.model.close()

    def _next(
        self, rows: list[tuple[Sequence, int, list[int]]], guesses: dict[str, list[int]]
    ) -> list[tuple[Sequence, int, list[int]]]:
        """One decode, and one draft token more for each that is fully prefilled; returns what to decode next."""
        began, began_to_read = self.clock(), self._wall()
        at = self.context.decode([(seq_id, len(self._held[s.id][1]), tokens, 1) for s, seq_id, tokens in rows])
        drawn = [int(self.context.logits(index)[: self._n_vocab].argmax()) for index in at]
        if all(len(tokens) == 1 for _, _, tokens in rows):
            self.costs.observe(len(rows), self.clock() - began)
        n_read = sum(len(tokens) for _, _, tokens in rows if len(tokens) > 1)
        n_decoded = sum(len(tokens) == 1 for _, _, tokens in rows)
        self._slices.observe(n_decoded, n_read, self._wall() - began_to_read)
        more = []
        for (s, seq_id, tokens), token in zip(rows, drawn, strict=True):
            held = self._held[s.id][1]
            held += tokens
            if len(held) >= len(s.tokens) and token not in self.model.end_tokens:
                guesses[s.id].append(token)
                more.append((s, seq_id, [token]))
        return more

    def _make_room(self, sequence: Sequence, n: int, keep: set[str]) -> bool:
        """Give the sequence an id, cut what is no longer part of its text, and ensure cells for it and n tokens: the
        least recently used ones are evicted. False: there is no room."""
        seq_id, held = self._held.pop(sequence.id, (-1, []))
        while seq_id < 0 and not self._free_ids and (oldest := self._oldest(keep)):
            self.forget(oldest)
        if seq_id < 0:
            if not self._free_ids:
                return False
            seq_id = self._free_ids.pop()
        n_known = min(n_common(held, sequence.tokens), len(sequence.tokens) - 1)  # the last is decoded for its logits
        if n_known == 0:
            self.context.forget(seq_id)
        elif n_known < len(held):
            self.context.cut(seq_id, n_known)
        del held[n_known:]
        self._held[sequence.id] = seq_id, held
        while self._n_cells(sequence, n) > self.context.n_ctx and (oldest := self._oldest(keep)):
            self.forget(oldest)
        return self._n_cells(sequence, n) <= self.context.n_ctx

    def _oldest(self, keep: set[str]) -> str | None:
        return next((id for id in self._held if id not in keep), None)

    def _n_cells(self, sequence: Sequence, n: int) -> int:
        """Cells that all would take with this one's whole text and n tokens for each."""
        n_others = sum(len(tokens) + n for id, (_, tokens) in self._held.items() if id != sequence.id)
        return n_others + len(sequence.tokens) + n


def check(model: Model, draft: Model, context: Context) -> None:
    """Raises LlamaError when one can't be the draft model of the other."""
    n = min(model.n_vocab, draft.n_vocab)
    if max(model.n_vocab, draft.n_vocab) - n > MOST_MISSING:
        raise LlamaError(f"its vocabulary has {draft.n_vocab} tokens, the target model's has {model.n_vocab}")
    differs = next((t for t in range(n) if model.text_of(t) != draft.text_of(t)), -1)
    if differs >= 0:
        raise LlamaError(
            f"its vocabulary differs: token {differs} is {draft.text_of(differs)!r} in it, and "
            f"{model.text_of(differs)!r} in the target model"
        )
    if context.memory is Memory.STATE:
        raise LlamaError("its memory can't be truncated, as is necessary after each rejected draft token")
