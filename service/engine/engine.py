"""The loop: schedule -> decode -> sample -> report. `step()` is the overview; one thread owns it and the context."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.engine.acceptance import accept
from service.engine.host.threads import Threads
from service.engine.kv.actions import Action, Cut, Share
from service.engine.kv.cells import CellCopy, Cells
from service.engine.kv.memory import Memory
from service.engine.kv.prefixes import Prefixes
from service.engine.kv.sharing import Sharing
from service.engine.llama.context import Context, NoRoom
from service.engine.llama.model import LlamaError, Model
from service.engine.sampling.parallel import Drawn
from service.engine.sampling.structured import AnySampler
from service.engine.scheduling.batch import Limits, Row
from service.engine.scheduling.prefill_chunks import STEP_S, PrefillChunker
from service.engine.scheduling.scheduler import Scheduler
from service.engine.scoring import score
from service.engine.sequences.sequence import Sequence
from service.engine.step_report import count, moved
from service.engine.token_sampling import TokenSampling
from service.engine.tuning import Tuning
from service.protocol.frames import Finish, Rejected, Step


class Engine:
    """Runs every sequence on one context. Not thread-safe: submit, cancel and step belong to one thread."""

    def __init__(
        self,
        model: Model,
        context: Context,
        tuning: Tuning | None = None,
        *,
        threads: Threads | None = None,
        n_threads: int = 1,
        started: Callable[[list[str]], None] = lambda ids: None,
        refused: Callable[[Rejected], None] = lambda refused: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """tuning: no draft tokens are proposed where the memory can't be cut.
        threads: chooses the number of threads before each step; None: it stays as the context has it.
        n_threads: how many may sample tokens between two decodes.
        started: called with the ids that a step admits, before it computes them.
        refused: called for requests that can't continue and are dropped without a Finish.
        """
        self._threads, self._started, self._refused = threads, started, refused
        self._model, self._context, self._clock = model, context, clock
        context.clear()
        tuning = tuning or Tuning()
        self._chunker = tuning.chunker or PrefillChunker(
            target_s=STEP_S, n_batch=context.n_batch, n_tile=context.n_tile
        )
        self._drafts = tuning.drafts if context.memory is Memory.CUTTABLE else None
        prefixes = Prefixes(context.memory, context.has_window) if tuning.shares and context.can_share else None
        limits = Limits(
            n_seq=context.n_seq,
            n_batch=context.n_batch,
            most_rows=min(context.n_outputs_max, (context.n_tile or context.n_batch) - 1),
            n_tile=context.n_tile,
            n_outputs=context.n_outputs_max,
        )
        self.scheduler = Scheduler(
            limits,
            Sharing(Cells(context.n_ctx, in_order=context.in_order), prefixes, context.n_ids),
            n_chunk=self._chunker.size,
            most_kept_cells=tuning.most_kept_cells,
            drafts=self._drafts,
            tidies=context.n_tile is not None and context.memory is Memory.CUTTABLE,
        )
        self._sampling = TokenSampling(model.n_vocab, n_threads)
        self._sequences: dict[str, Sequence] = {}
        self._positions: dict[str, int] = {}  # queue positions as last reported
        self._ended: list[Finish] = []  # since the last step
        self._admit = True

    def __repr__(self) -> str:
        return f"<Engine {self.scheduler!r}>"

    @property
    def is_idle(self) -> bool:
        """Whether a step would have nothing to compute and nothing to report."""
        return not self._sequences and not self._ended

    def submit(self, sequence: Sequence, sampler: AnySampler) -> None:
        """Queue a sequence with a new sampler of its own; a resumed one samples as if it had never stopped.

        Raises LlamaError when its id is in use; nothing has changed then.
        """
        if sequence.id in self._sequences:
            raise LlamaError("there is a sequence of this id")
        if sequence.finish_reason is not None:
            sampler.close()
            self._ended.append(sequence.finish())
            return
        sampler.go_on(sequence.tokens[: sequence.n_prompt], sequence.tokens[sequence.n_prompt :])
        self._sequences[sequence.id] = sequence
        self._sampling.add(sequence.id, sampler)
        self.scheduler.add(sequence)

    def cancel(self, id: str) -> None:
        """Free a sequence at once; the next step reports it finished. Unknown ids are ignored."""
        if sequence := self._sequences.get(id):
            sequence.finish_reason = "cancelled"
            self._drop(sequence)
            self._ended.append(sequence.finish())

    def step(self) -> Step:
        """One step. Raises LlamaError when the context can't continue."""
        began = self._clock()
        step = Step(finished=self._ended)
        self._ended = []
        if self._threads is not None:
            n_threads = self._threads.choose()
            self._context.set_threads(n_threads)
            self._chunker.use(n_threads)
        self._take_drawn(step)
        batch = self.scheduler.schedule(began, admit=self._admit)
        self._admit = True
        self._carry_out(batch.actions)
        if batch.copies is not None:
            self._tidy(batch.copies)
        step.n_preempted = len(batch.preempted) + len(batch.rested)
        if batch.admitted:
            self._started([sequence.id for sequence in batch.admitted])
        try:
            for rows in batch.calls(self._context.n_tile):
                self._compute(rows, began, step)
        except NoRoom:  # despite the count: a sliding window or a state cache has its own cells
            step.n_preempted += self._give_way()
        if self._sampling.n_unfinished and not batch.rows:
            self._sampling.wait_for_one()
            self._take_drawn(step)
        self._positions, step.queued = moved(self._positions, self.scheduler.waiting)
        step.n_running, step.n_waiting = len(self.scheduler.running), len(self._positions)
        step.kv_used = self.scheduler.n_cells_used
        step.kv_kept, step.n_kept = self.scheduler.cells.n_live - step.kv_used, len(self.scheduler.kept)
        step.step_s = self._clock() - began
        self.scheduler.took(step.step_s, self._chunker.decode_s)
        self._chunker.observe(step.n_batch - step.n_prefill, step.n_prefill, step.step_s)
        return step

    def rest(self) -> None:
        """Measure other processes' load while idle, so that the next step does not rely on an outdated measurement."""
        if self._threads is not None:
            self._threads.choose()

    def close(self) -> None:
        """End its threads; a second call does nothing."""
        self._sampling.close()

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Share):
                self._context.share(action.source, action.seq_id, action.n)
            elif isinstance(action, Cut):
                self._context.cut(action.seq_id, action.n, dead=action.dead)
            else:
                self._context.forget(action.seq_id, dead=action.dead)

    def _tidy(self, copies: list[CellCopy]) -> None:
        began = self._clock()
        self._context.tidy(copies)
        now = self._clock()
        self.scheduler.compaction.took(now - began, now)

    def _compute(self, rows: list[Row], began: float, step: Step) -> None:
        """One llama_decode and the sampling after it. Raises NoRoom; nothing has changed then."""
        first = self._decode(rows)
        drawn = self._sampling.draw(self._context, rows, first)
        for row, index in zip(rows, first, strict=True):
            score(self._model, self._context, row, index)
        now = self._clock()
        for row, what in zip(rows, drawn, strict=True):
            count(row, began, step)
            n_right = accept(self._model, row.sequence, what, now, step) if what else 0
            step.n_accepted += n_right
            self._carry_out(self.scheduler.advance(row, n_right, at_end=row is rows[-1]))
        # All rows' cells are counted by now, which decides whether those of a sequence that ends become dead cells.
        for row, what in zip(rows, drawn, strict=True):
            if what:
                self._end(row.sequence, what, step)

    def _decode(self, rows: list[Row]) -> list[int]:
        """The batch index of each row's first token with logits."""
        work = []
        for row in rows:
            s = row.sequence
            work.append((s.seq_id, s.n_past, [*s.tokens[s.n_past : s.n_past + row.n], *row.drafts], row.n_logits))
        if self._drafts is None or any(row.sequence.is_prefilling for row in rows):
            return self._context.decode(work)
        began = self._drafts.clock()
        first = self._context.decode(work)
        self._context.wait()
        self._drafts.observe(sum(row.n_tokens for row in rows), self._drafts.clock() - began)
        return first

    def _take_drawn(self, step: Step) -> None:
        """Accept tokens that other threads have sampled meanwhile; the cells of their drafts are gone."""
        for id, drawn in self._sampling.finished().items():
            sequence = self._sequences[id]
            sequence.is_drawing = False
            accept(self._model, sequence, drawn, self._clock(), step)
            self._end(sequence, drawn, step)

    def _end(self, sequence: Sequence, drawn: Drawn, step: Step) -> None:
        """Drop the sequence if that was its last token, or none could be sampled."""
        if sequence.finish_reason:
            self._drop(sequence)
            step.finished.append(sequence.finish())
        elif drawn.error:
            self._refused(Rejected(sequence.id, "invalid_request", drawn.error.told, drawn.error.param))
            self._drop(sequence)

    def _give_way(self) -> int:
        """Evict kept prefixes, or preempt the youngest sequence and admit none in the next step; returns the number
        preempted. Raises LlamaError when only one runs and nothing is kept."""
        actions, youngest = self.scheduler.give_way()
        if not actions:
            raise LlamaError("the KV cache has no room for a sequence that is alone in it")
        self._carry_out(actions)
        self._admit = youngest is None
        return 0 if youngest is None else 1

    def _drop(self, sequence: Sequence) -> None:
        """Free everything that a sequence held, except cells that the prefix cache keeps."""
        self._carry_out(self.scheduler.remove(sequence))
        del self._sequences[sequence.id]
        self._sampling.drop(sequence.id)
        if self._drafts:
            self._drafts.forget(sequence)
