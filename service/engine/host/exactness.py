"""Whether this model's results depend on what else is in the batch. Weight types and the processor decide that, so it
is measured."""

from __future__ import annotations

import numpy as np

from service.engine.llama.context import Context

N_ROWS = 8  # ggml multiplies four rows, or eight and more, with other kernels than one


def is_exact(context: Context, n_vocab: int) -> bool:
    """Whether some tokens' logits are bitwise the same in one decode for all and in a decode for each."""
    n = min(N_ROWS, context.n_batch, context.n_ctx)
    tokens = [i * n_vocab // n for i in range(n)]
    context.decode([(0, 0, tokens, n)])
    together = [context.logits(i).copy() for i in range(n)]
    context.clear()
    same = True
    for i, token in enumerate(tokens):
        context.decode([(0, i, [token], 1)])
        same &= np.array_equal(context.logits(0), together[i])
    context.clear()
    return same
