"""What decodes cost on this machine, measured once when a model is loaded: how large slices may be, and guesses."""

from __future__ import annotations

import time
from collections.abc import Callable

from .context import Context
from .prefix import Memory
from .slices import Slices
from .speculation import LEAST_S, Costs

WARM_UP_TOKENS = 32
# The rows whose decodes are timed, those first that others are guessed from. All take a CPU second with a 0.5B model,
# 20 ms with the starter. A large model is not held up for more than the first two, which read its weights twice: what
# is not measured then is learnt while it runs.
TIMED_ROWS = (1, 4, 8, 2, 3, 16)
TIMED_S = 1.0
TAX = 0.2  # of a step, for cells that nobody in it looks at; 3,000 take 0 to 0.08 of one on a CPU, 0.45 unpatched
LEAST_KEPT = 4096  # cells: some shared prompts are worth more than that, and what is measured in a moment is not exact
MOST_CELLS = 1 << 31  # llama.cpp counts them in 32 bits
LOOKS = 3  # each of three tokens: what is decided here holds as long as the process lives


def warm_up(context: Context, step_s: float) -> Slices:
    """Compute the shapes that the first requests will have, a prompt's slice and a token, and see how fast it goes."""
    slices = Slices(target_s=step_s, n_batch=context.n_batch, n_tile=context.n_tile)
    n = min(WARM_UP_TOKENS, context.n_batch, context.n_ctx)
    for _ in range(2):  # the first one touches every page of the weights
        began = time.monotonic()
        context.warm_up(n)
        slices.row_s = (time.monotonic() - began) / n
    context.warm_up(1)
    return slices


def measure_rows(context: Context, clock: Callable[[], float]) -> Costs:
    """What decodes of a few rows cost, all of them with logits: the second of two, for the first makes their graph."""
    costs, began = Costs(), clock()
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
    """How many cells may be kept: attention passes over each in every step, which must not take TAX longer for them."""
    if not context.can_share or context.memory is not Memory.CUTTABLE:
        return context.n_ctx

    def token_s() -> float:
        times: list[float] = []
        for _ in range(3):  # the least of three: what disturbs it only adds
            began = clock()
            context.decode([(0, 0, [0], True)])
            times.append(clock() - began)
            context.forget(0)
        return min(times)

    free_s = token_s()
    n_cells = context.burden(WARM_UP_TOKENS)
    most, looks = LEAST_KEPT, 0
    while n_cells and most < context.n_ctx and looks < LOOKS:  # what seems dear, for it may have been disturbed
        most, looks = max(most, _affordable(free_s, token_s(), n_cells)), looks + 1
    context.clear()
    return min(context.n_ctx, most) if n_cells else context.n_ctx


def _affordable(free_s: float, burdened_s: float, n_cells: int) -> int:
    """Cells that take TAX of a token's time, where n_cells make it so much longer: more than there are if none seem
    to take any."""
    return int(min(TAX * free_s * n_cells / max(burdened_s - free_s, LEAST_S), MOST_CELLS))
