"""The process that reads what may take long: `python -m service.engine.preparer FD MODEL N_CTX TEMPLATE`.

How long a tokenizer, a chat template or a grammar's parser takes is for the text to say: 392,000 line feeds take
SentencePiece half a minute. None of them can be interrupted, so they run where they can be killed: SIGPROF ends this
process when its CPU time for one request is spent. It has the vocabulary, not the weights, and the lowest claim to
the cores: streams come first. One frame in, a Submit, one frame out: what reading.py makes of it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import llama
from .budget import ConfigurationError
from .llama import LlamaError, Model
from .protocol import Decoder, Refused, Submit, encode
from .reading import Reading
from .sampler import check_grammar
from .template import Prompts

NICE = 10  # a tenth of a core where streams want both, all of it where nobody does
# What an ordinary text is read in, the more for what is rare: a text of one kind of letters, another script.
TIMES = 8.0
LEAST_S = 0.5  # of CPU time: what a grammar may take besides
BYTES_PER_TOKEN = 8  # more than ordinary text has: what is longer does not fit the context, however fast it is read
SAMPLE = "The quick brown fox jumps over the lazy dog; 12 of them: {'a': [1, 2.5], \"b\": null}\n" * 200


def main(fd: int, path: Path, n_ctx: int, chat_template: str) -> None:
    """Answer until the engine is gone."""
    os.nice(NICE)
    llama.start(lambda level, text: None)
    try:
        model = Model(path, vocab_only=True)
        prompts = Prompts(model, chat_template)
    except (LlamaError, ConfigurationError):
        return  # the engine, which loaded them, says it
    read = Reading(prompts, partial(check_grammar, model))
    answer(socket.socket(fileno=fd), read, budget(n_ctx, seconds_per_byte(prompts)))


def answer(sock: socket.socket, read: Callable[[Submit], Submit | Refused], budget_s: Callable[[int], float]) -> None:
    """Read each Submit that comes within budget_s(its characters) of CPU time, or end this process."""
    decoder = Decoder()
    while data := sock.recv(1 << 18):
        for frame in decoder.feed(data):
            assert isinstance(frame, Submit)
            signal.setitimer(signal.ITIMER_PROF, budget_s(frame.n_characters))
            answered = read(frame)
            signal.setitimer(signal.ITIMER_PROF, 0)
            sock.sendall(encode(answered))


def budget(n_ctx: int, byte_s: float) -> Callable[[int], float]:
    """CPU seconds for so many characters, where an ordinary text takes byte_s for each byte."""
    return lambda n: LEAST_S + TIMES * byte_s * min(n, BYTES_PER_TOKEN * n_ctx)


def seconds_per_byte(prompts: Prompts) -> float:
    """CPU time for an ordinary text, here and now."""
    began = time.process_time()
    prompts.raw(SAMPLE)
    return (time.process_time() - began) / len(SAMPLE)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
