"""Sampled tokens become their sequence's, and the deltas of a step."""

from __future__ import annotations

from service.engine.llama.model import Model
from service.engine.sampling.logprobs import named
from service.engine.sampling.parallel import Drawn
from service.engine.sequences.sequence import Sequence
from service.protocol.frames import Step


def accept(model: Model, sequence: Sequence, drawn: Drawn, now: float, step: Step) -> int:
    """Accept the sampled tokens, up to an end; returns how many drafts were accepted.

    Each token makes its own delta, however many a step brings: event boundaries then depend on the tokens alone,
    so that an engine that generates them again makes the same events."""
    sequence.draw_s = drawn.each_s
    piece = model.spelled if sequence.shows_special else model.piece
    for at, token in enumerate(drawn.tokens):
        is_end = token in model.end_tokens or token in sequence.stop_tokens
        if drawn.logprobs:
            sequence.held_logprobs.append(named(model, drawn.logprobs[at], sequence.text.n_characters))
        text = sequence.accept(token, piece(token), is_end, now)
        _deliver(sequence, text, step)
        if sequence.finish_reason:
            break
    if not sequence.max_tokens:
        sequence.finish_reason = "length"
        _deliver(sequence, "", step)
    return max(0, len(drawn.tokens) - (drawn.error is None))


def _deliver(sequence: Sequence, text: str, step: Step) -> None:
    """Make a delta where there is text, or an end that something was held until."""
    if text or (sequence.finish_reason and sequence.holds):
        step.deltas.append((sequence.id, sequence.take_held(), sequence.say(text)))
