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
    for at, token in enumerate(drawn.tokens):
        is_end = token in model.end_tokens or token in sequence.stop_tokens
        if drawn.logprobs:
            sequence.held_logprobs.append(named(model, drawn.logprobs[at], sequence.text.n_characters))
        text = sequence.accept(token, model.piece(token), is_end, now)
        if text or (sequence.finish_reason and (sequence.held or sequence.held_logprobs)):
            step.deltas.append((sequence.id, sequence.take_held(), sequence.say(text)))
        if sequence.finish_reason:
            break
    return len(drawn.tokens) - (drawn.error is None)
