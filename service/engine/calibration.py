"""What decodes cost on this machine, measured once at model load: it sizes prefill chunks, drafts and prefix cache."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.engine.kv.memory import Memory
from service.engine.llama.context import Context
from service.engine.scheduling.prefill_chunks import PrefillChunker
from service.engine.speculation.costs import LEAST_S, DecodeCost

WARM_UP_TOKENS = 32
# Row counts of the timed decodes, first those from which others are estimated. All take a CPU second with a 0.5B model,
# 20 ms with the starter. A large model is timed with the first two only, which read its weights twice: what is not
# measured then is learnt while it runs.
TIMED_ROWS = (1, 4, 8, 2, 3, 16)
TIMED_S = 1.0
TAX = 0.2  # of a step, for cells that no sequence in it attends to; 3,000 take 0 to 0.08 of it on a CPU, 0.45 unpatched
LEAST_KEPT = 4096  # cells: some shared prompts are worth more than their cost, and a short measurement is not exact
MOST_CELLS = 1 << 31  # llama.cpp counts them in 32 bits
LOOKS = 3  # measurements, each of three tokens: the result holds for the life of the process


def warm_up(context: Context, step_s: float) -> PrefillChunker:
    """Decode the shapes of the first requests, a prefill chunk and a single token, and measure the speed."""
    chunker = PrefillChunker(target_s=step_s, n_batch=context.n_batch, n_tile=context.n_tile)
    n = min(WARM_UP_TOKENS, context.n_batch, context.n_ctx)
    for _ in range(2):  # the first one touches every page of the weights
        began = time.monotonic()
        context.warm_up(n)
        chunker.row_s = (time.monotonic() - began) / n
    context.warm_up(1)
    return chunker


def measure_rows(context: Context, clock: Callable[[], float]) -> DecodeCost:
    """What decodes of a few rows cost, all with logits: the second of two is timed, as the first builds the graph."""
    costs, began = DecodeCost(), clock()
    most = min(context.n_outputs_max, context.n_batch, context.n_ctx, (context.n_tile or context.n_batch) - 1)
    for n in TIMED_ROWS:
        if n > most or (n not in TIMED_ROWS[:2] and clock() - began > TIMED_S):
            continue
        times: list[float] = []
        while len(times) < 2 and (not times or clock() - began + times[-1] < TIMED_S):
            start = clock()
            context.warm_up(n, n)
            times.append(clock() - start)
        costs.observe(n, times[-1])
    return costs


def measure_kept(context: Context, clock: Callable[[], float] = time.monotonic) -> int:
    """Cells that may be kept: attention scans each in every step, which must not take TAX longer because of them."""
    if not context.can_share or context.memory is not Memory.CUTTABLE:
        return context.n_ctx

    def token_s() -> float:
        times: list[float] = []
        for _ in range(3):  # the minimum of three: disturbances only add time
            began = clock()
            context.decode([(0, 0, [0], True)])
            times.append(clock() - began)
            context.forget(0)
        return min(times)

    free_s = token_s()
    n_cells = context.burden(WARM_UP_TOKENS)
    most, looks = LEAST_KEPT, 0
    while n_cells and most < context.n_ctx and looks < LOOKS:  # again if expensive: it may have been disturbed
        most, looks = max(most, _affordable(free_s, token_s(), n_cells)), looks + 1
    context.clear()
    return min(context.n_ctx, most) if n_cells else context.n_ctx


def _affordable(free_s: float, burdened_s: float, n_cells: int) -> int:
    """Cells that take TAX of a token's time, if n_cells lengthen it from free_s to burdened_s: more than exist if they
    seem to cost nothing."""
    return int(min(TAX * free_s * n_cells / max(burdened_s - free_s, LEAST_S), MOST_CELLS))
