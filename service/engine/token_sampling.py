"""Samples the next tokens of a batch's rows: on the decoding threads, or on others where that may take long."""

from __future__ import annotations

from service.engine.llama.context import Context
from service.engine.sampling.aside import AsideSampler
from service.engine.sampling.parallel import Draw, Drawn, ParallelSampler
from service.engine.sampling.structured import AnySampler
from service.engine.scheduling.batch import Row

# Most samplers take a tenth of this for a token; a request with slower ones (all samplers, over windows of 65,536
# tokens) is sampled on other threads (sampling/aside.py) where other tenants' streams would wait for it.
QUICK_S = 0.002


class TokenSampling:
    """Each sequence's sampler, by its id, and the threads that run them."""

    def __init__(self, n_vocab: int, n_threads: int) -> None:
        """n_threads: how many may sample between two decodes."""
        self._parallel = ParallelSampler(n_vocab, n_threads)
        self._aside = AsideSampler(n_vocab, max(1, n_threads - 1))
        self._samplers: dict[str, AnySampler] = {}

    def __repr__(self) -> str:
        return f"<TokenSampling {len(self._samplers)} samplers, {self.n_unfinished} drawing>"

    @property
    def n_unfinished(self) -> int:
        """Draws that have not finished."""
        return len(self._aside)

    def add(self, id: str, sampler: AnySampler) -> None:
        """A sequence's sampler, closed when it is dropped."""
        self._samplers[id] = sampler

    def draw(self, context: Context, rows: list[Row], first: list[int]) -> list[Drawn | None]:
        """The tokens sampled after each row; None: it ends within its prompt, or its sampling has not finished.

        first: the batch index of each row's first token with logits.
        """
        aside: list[tuple[Row, Draw]] = []
        here: list[tuple[Row, Draw]] = []
        several = len({row.sequence.tenant for row in rows}) > 1
        for row, index in zip(rows, first, strict=True):
            if row.samples and row.sequence.max_tokens:
                at = index + row.n_logits - 1 - len(row.drafts)
                run = Draw(self._samplers[row.sequence.id], at, row.drafts, row.sequence.n_logprobs)
                may_take_long = run.sampler.may_take_long(1 + len(row.drafts))
                is_aside = may_take_long or (several and row.sequence.draw_s > QUICK_S)
                (aside if is_aside else here).append((row, run))
        for row, run in aside:
            self._aside.start(row.sequence.id, run, run.logits(context))
        found = self._parallel.draw(context, [run for _, run in here])
        drawn = {row.sequence.id: one for (row, _), one in zip(here, found, strict=True)}
        drawn |= {row.sequence.id: Drawn([]) for row in rows if not row.sequence.max_tokens}
        if ids := [row.sequence.id for row, _ in aside]:
            self._aside.wait(ids)
            drawn |= self._aside.take(ids)
        for row, _ in aside:
            row.sequence.is_drawing = row.sequence.id not in drawn
        return [drawn.get(row.sequence.id) if row.samples else None for row in rows]

    def finished(self) -> dict[str, Drawn]:
        """By sequence id: draws that other threads have finished meanwhile."""
        return self._aside.take()

    def wait_for_one(self) -> None:
        """Until a draw finishes."""
        self._aside.wait_for_one()

    def drop(self, id: str) -> None:
        """The sequence has ended."""
        self._aside.drop(id, self._samplers.pop(id).close)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._parallel.close()
        self._aside.close()
