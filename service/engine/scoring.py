"""Log-probabilities of a prompt's tokens, where it is repeated before the answer."""

from __future__ import annotations

from service.engine.llama.context import Context
from service.engine.llama.model import Model
from service.engine.sampling.logprobs import Distribution, named
from service.engine.scheduling.batch import Row


def score(model: Model, context: Context, row: Row, first: int) -> None:
    """Add those that a row has logits for, before its sequence advances. first: the batch index of these logits."""
    s = row.sequence
    if not row.n_scoring or s.n_logprobs is None or s.echo is None:
        return
    start = s.n_past + row.n - row.n_scoring
    for at in range(start, min(s.n_past + row.n, s.n_prompt - 1)):
        ranked = Distribution(context.logits(first + at - start), s.n_logprobs).of(s.tokens[at + 1])
        s.held_logprobs.append(named(model, ranked, s.echo.offsets[at + 1]))
        s.n_unscored -= 1
