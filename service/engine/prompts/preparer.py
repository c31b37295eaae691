"""The process that tokenizes slow requests: `python -m service.engine.prompts.preparer FD MODEL N_CTX TEMPLATE`.

How long a tokenizer, a chat template or a grammar's compiler takes depends on the text: 392,000 line feeds take
SentencePiece half a minute. None of them can be interrupted, so they run where they can be killed: SIGPROF ends this
process when its CPU time for one request is spent. It has the vocabulary, not the weights, and a low scheduling
priority: streams come first. One frame in, a Submit, one frame out: the result of reading.py.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from service.engine.host.resources import ConfigurationError
from service.engine.llama import model as llama
from service.engine.llama.model import LlamaError, Model
from service.engine.prompts.reading import Reading
from service.engine.prompts.template import Prompts
from service.engine.sampling.sampler import check_grammar
from service.engine.sampling.structures import Structures
from service.protocol.codec import Decoder, encode
from service.protocol.frames import Rejected, Submit

NICE = 10  # a tenth of a core that streams also want, all of an idle one
# Times what an ordinary text takes, to allow for unusual ones: a text of one kind of letters, another script.
TIMES = 8.0
LEAST_S = 0.5  # of CPU time: what a grammar may take in addition
BYTES_PER_TOKEN = 8  # more than ordinary text has: a longer text does not fit the context, and gets no more time
SAMPLE = "The quick brown fox jumps over the lazy dog; 12 of them: {'a': [1, 2.5], \"b\": null}\n" * 200


def main(fd: int, path: Path, n_ctx: int, chat_template: str) -> None:
    """Answer requests until the engine is gone."""
    os.nice(NICE)
    llama.start(lambda level, text: None)
    try:
        model = Model(path, vocab_only=True)
        prompts = Prompts(model, chat_template)
    except (LlamaError, ConfigurationError):
        return  # the engine, which loaded them, reports it
    structures = Structures(model)

    def load(submit: Submit) -> None:
        with suppress(LlamaError):  # `prove` raises it again
            if submit.structure:
                structures.load()

    read = Reading(prompts, partial(check_grammar, model), structures.prove)
    answer(socket.socket(fileno=fd), read, budget(n_ctx, seconds_per_byte(prompts)), load)


def answer(
    sock: socket.socket,
    read: Callable[[Submit], Submit | Rejected],
    budget_s: Callable[[int], float],
    load: Callable[[Submit], None] = lambda submit: None,
) -> None:
    """Process each Submit within budget_s(its characters) of CPU time, or die by SIGPROF.

    load: makes what later requests need, too; not on this one's time.
    """
    decoder = Decoder()
    while data := sock.recv(1 << 18):
        for frame in decoder.feed(data):
            assert isinstance(frame, Submit)
            load(frame)
            signal.setitimer(signal.ITIMER_PROF, budget_s(frame.n_characters))
            answered = read(frame)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sock.sendall(encode(answered))


def budget(n_ctx: int, byte_s: float) -> Callable[[int], float]:
    """CPU seconds for n characters, where an ordinary text takes byte_s for each byte."""
    return lambda n: LEAST_S + TIMES * byte_s * min(n, BYTES_PER_TOKEN * n_ctx)


def seconds_per_byte(prompts: Prompts) -> float:
    """CPU time for each byte of an ordinary text."""
    began = time.process_time()
    prompts.raw(SAMPLE)
    return (time.process_time() - began) / len(SAMPLE)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
