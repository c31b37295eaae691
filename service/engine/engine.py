"""The loop: schedule -> decode -> sample -> report. `step()` is the whole map; one thread owns it and the context."""

from __future__ import annotations

import time
from collections.abc import Callable

from .batch import Action, Cut, Row, Share
from .cells import Cells, Copy
from .context import Context, NoRoom
from .drafts import Drafts
from .drawing import Drawing, Drawn, Run
from .drawing_aside import DrawingAside
from .llama import LlamaError, Model
from .prefix import Memory, Prefixes
from .protocol import Finish, Refused, Step
from .sampler import Argmax, Sampler
from .scheduler import Scheduler
from .sequence import Sequence
from .slices import STEP_S, Slices
from .threads import Threads

# A draw of most samplers takes a tenth of it; one that a request makes dearer, with all its samplers over windows of
# 65,536 tokens, is drawn aside where other tenants' streams would wait for it.
QUICK_S = 0.002


class Engine:
    """Runs every sequence on one context. Not thread-safe: submit, cancel and step belong to one thread."""

    def __init__(
        self,
        model: Model,
        context: Context,
        *,
        slices: Slices | None = None,
        shares: bool = True,
        most_kept_cells: int | None = None,
        drafts: Drafts | None = None,
        threads: Threads | None = None,
        n_threads: int = 1,
        started: Callable[[list[str]], None] = lambda ids: None,
        refused: Callable[[Refused], None] = lambda refused: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """slices: sizes what is read beside running streams; None: for steps of 0.2 s.
        shares: whether a prompt's beginning that is known already is shared.
        most_kept_cells: of ended sequences; None: what is free.
        drafts: guesses what is decoded beside each next token; None, or a memory that can't be cut: nothing is.
        threads: chooses their number before each step; None leaves it as the context has it.
        n_threads: how many may draw tokens between two decodes.
        started: told of those that a step computes for the first time, before it does.
        refused: told of those that can't go on and are dropped without an end.
        """
        self._threads, self._started, self._refused = threads, started, refused
        self._model, self._context, self._clock = model, context, clock
        context.clear()
        self._slices = slices or Slices(target_s=STEP_S, n_batch=context.n_batch, n_tile=context.n_tile)
        self._drafts = drafts if context.memory is Memory.CUTTABLE else None
        self.scheduler = Scheduler(
            n_seq=context.n_seq,
            n_batch=context.n_batch,
            n_ids=context.n_ids,
            cells=Cells(context.n_ctx, in_order=context.in_order),
            prefixes=Prefixes(context.memory, context.has_window) if shares and context.can_share else None,
            n_slice=self._slices.size,
            most_kept_cells=most_kept_cells,
            draft=self._drafts.draft if self._drafts else None,
            most_rows=min(context.n_outputs_max, (context.n_tile or context.n_batch) - 1),
            n_tile=context.n_tile,
            tidies=context.n_tile is not None and context.memory is Memory.CUTTABLE,
            seconds=self._drafts.seconds if self._drafts else None,
        )
        self._drawing = Drawing(model.n_vocab, n_threads)
        self._aside = DrawingAside(model.n_vocab, max(1, n_threads - 1))
        self._sequences: dict[str, Sequence] = {}
        self._samplers: dict[str, Sampler | Argmax] = {}
        self._positions: dict[str, int] = {}  # queue positions as last reported
        self._ended: list[Finish] = []  # between two steps
        self._admit = True

    def __repr__(self) -> str:
        return f"<Engine {self.scheduler!r}>"

    @property
    def is_idle(self) -> bool:
        """Whether a step would have nothing to compute and nothing to report."""
        return not self._sequences and not self._ended

    def submit(self, sequence: Sequence, sampler: Sampler | Argmax) -> None:
        """Queue a sequence with a new sampler of its own; one that goes on draws as if it had never stopped.

        Raises LlamaError when its id is another's; nothing has changed then.
        """
        if sequence.id in self._sequences:
            raise LlamaError("there is a sequence of this id")
        if sequence.finish_reason is not None:
            sampler.close()
            self._ended.append(sequence.finish())
            return
        sampler.go_on(sequence.tokens[: sequence.n_prompt], sequence.tokens[sequence.n_prompt :])
        sequence.draws_aside = sampler.may_take_long
        self._sequences[sequence.id] = sequence
        self._samplers[sequence.id] = sampler
        self.scheduler.add(sequence)

    def cancel(self, id: str) -> None:
        """Free a sequence at once; the next step reports it finished. Unknown ids are ignored."""
        if sequence := self._sequences.get(id):
            sequence.finish_reason = "cancelled"
            self._drop(sequence)
            self._ended.append(sequence.finish())

    def step(self) -> Step:
        """One turn. Raises LlamaError when the context can't go on."""
        began = self._clock()
        step = Step(finished=self._ended)
        self._ended = []
        if self._threads is not None:
            self._context.set_threads(self._threads.choose())
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
        except NoRoom:  # the count said there was room: a window or a state cache keeps its own
            step.n_preempted += self._give_way()
        if len(self._aside) and not batch.rows:
            self._aside.wait_for_one()
            self._take_drawn(step)
        step.queued.extend(self._moved())
        step.n_running, step.n_waiting = len(self.scheduler.running), len(self._positions)
        step.kv_used = self.scheduler.n_cells_used
        step.kv_kept, step.n_kept = self.scheduler.cells.n_live - step.kv_used, len(self.scheduler.kept)
        step.step_s = self._clock() - began
        self.scheduler.took(step.step_s, self._slices.decode_s)
        self._slices.observe(step.n_batch - step.n_prefill, step.n_prefill, step.step_s)
        return step

    def rest(self) -> None:
        """See what neighbours do while there is nothing to step: the next one must not go by what is long over."""
        if self._threads is not None:
            self._threads.choose()

    def close(self) -> None:
        """End its threads; a second call does nothing."""
        self._drawing.close()
        self._aside.close()

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Share):
                self._context.share(action.source, action.seq_id, action.n)
            elif isinstance(action, Cut):
                self._context.cut(action.seq_id, action.n, dead=action.dead)
            else:
                self._context.forget(action.seq_id, dead=action.dead)

    def _tidy(self, copies: list[Copy]) -> None:
        began = self._clock()
        self._context.tidy(copies)
        now = self._clock()
        self.scheduler.tidied(now - began, now)

    def _compute(self, rows: list[Row], began: float, step: Step) -> None:
        """One llama_decode and what follows from it. Raises NoRoom, and nothing has changed."""
        drawn = self._draw(rows, self._decode(rows))
        now = self._clock()
        for row, what in zip(rows, drawn, strict=True):
            self._count(row, began, step)
            n_right = self._accept(row.sequence, what, now, step) if what else 0
            step.n_accepted += n_right
            self._carry_out(self.scheduler.advance(row, n_right, at_end=row is rows[-1]))
        # All have their cells in the count by now: it says whether those of one that ends must be kept from use.
        for row, what in zip(rows, drawn, strict=True):
            if what:
                self._end(row.sequence, what, step)

    def _decode(self, rows: list[Row]) -> list[int]:
        """The batch index of each row's first token with logits."""
        work = []
        for row in rows:
            s, n_logits = row.sequence, 1 + len(row.drafts) if row.samples else 0
            work.append((s.seq_id, s.n_past, [*s.tokens[s.n_past : s.n_past + row.n], *row.drafts], n_logits))
        if self._drafts is None or any(row.sequence.is_prefilling for row in rows):
            return self._context.decode(work)
        began = self._drafts.clock()
        first = self._context.decode(work)
        self._context.wait()
        self._drafts.observe(sum(row.n_tokens for row in rows), self._drafts.clock() - began)
        return first

    def _draw(self, rows: list[Row], first: list[int]) -> list[Drawn | None]:
        """What comes after each row; None: it ends before its prompt does, or takes longer than others wait for."""
        aside: list[tuple[Row, Run]] = []
        here: list[tuple[Row, Run]] = []
        several = len({row.sequence.tenant for row in rows}) > 1
        for row, index in zip(rows, first, strict=True):
            if row.samples:
                run = Run(self._samplers[row.sequence.id], index, row.drafts)
                is_aside = row.sequence.draws_aside or (several and row.sequence.draw_s > QUICK_S)
                (aside if is_aside else here).append((row, run))
        for row, run in aside:
            self._aside.start(row.sequence.id, run, run.logits(self._context))
        found = self._drawing.draw(self._context, [run for _, run in here])
        drawn = {row.sequence.id: one for (row, _), one in zip(here, found, strict=True)}
        if ids := [row.sequence.id for row, _ in aside]:
            self._aside.wait(ids)
            drawn |= self._aside.take(ids)
        for row, _ in aside:
            row.sequence.is_drawing = row.sequence.id not in drawn
        return [drawn.get(row.sequence.id) if row.samples else None for row in rows]

    def _take_drawn(self, step: Step) -> None:
        """Go on with those whose tokens were drawn aside meanwhile; the cells of their drafts are gone."""
        for id, drawn in self._aside.take().items():
            sequence = self._sequences[id]
            sequence.is_drawing = False
            self._accept(sequence, drawn, self._clock(), step)
            self._end(sequence, drawn, step)

    def _count(self, row: Row, began: float, step: Step) -> None:
        sequence = row.sequence
        sequence.started_at = sequence.started_at or began
        step.n_batch += row.n_tokens
        step.n_drafted += len(row.drafts)
        step.n_prefill += row.n if sequence.is_prefilling else 0
        if sequence.n_past < sequence.n_prompt:
            n_done = min(sequence.n_past + row.n, sequence.n_prompt)
            step.prefill.append((sequence.id, n_done, sequence.n_prompt))

    def _accept(self, sequence: Sequence, drawn: Drawn, now: float, step: Step) -> int:
        """Take what was drawn, up to an end; returns how many drafts were right.

        However many tokens a step brings, each makes its own delta: where the answer is cut depends on its tokens
        alone, so that an engine that makes them again makes the same events."""
        n_right = len(drawn.tokens) - (drawn.error is None)
        sequence.draw_s = drawn.each_s
        for token in drawn.tokens:
            is_end = token in self._model.end_tokens or token in sequence.stop_tokens
            text = sequence.accept(token, self._model.piece(token), is_end, now)
            if text or (sequence.finish_reason and sequence.held):
                step.deltas.append((sequence.id, sequence.take_held(), text))
            if sequence.finish_reason:
                break
        return n_right

    def _end(self, sequence: Sequence, drawn: Drawn, step: Step) -> None:
        """Let it go if that was its last token, or none could be drawn."""
        if sequence.finish_reason:
            self._drop(sequence)
            step.finished.append(sequence.finish())
        elif drawn.error:
            self._refused(Refused(sequence.id, "invalid_request", f"grammar: {drawn.error}", "grammar"))
            self._drop(sequence)

    def _give_way(self) -> int:
        """Let kept prefixes or the youngest go, and nobody in beside it at once; returns how many were put back to
        wait. Raises LlamaError when there is only one, and nothing kept."""
        actions, youngest = self.scheduler.give_way()
        if not actions:
            raise LlamaError("the KV cache has no room for a sequence that is alone in it")
        self._carry_out(actions)
        self._admit = youngest is None
        return 0 if youngest is None else 1

    def _drop(self, sequence: Sequence) -> None:
        """Free everything that a sequence held, but for what is kept of its cells."""
        self._carry_out(self.scheduler.remove(sequence))
        del self._sequences[sequence.id]
        self._aside.drop(sequence.id, self._samplers.pop(sequence.id).close)
        if self._drafts:
            self._drafts.forget(sequence)

    def _moved(self) -> list[tuple[str, int]]:
        """(id, position) of waiting sequences whose position changed since the last report."""
        positions = {s.id: at for at, s in enumerate(self.scheduler.waiting, 1)}
        moved = [(id, at) for id, at in positions.items() if self._positions.get(id) != at]
        self._positions = positions
        return moved
