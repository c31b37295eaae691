"""Slow sampling (clients' grammars, large windows) on threads of its own, so that other streams do not wait for it.

The step in which a token arrives does not change it: it is sampled from a copy of its own logits by its own sampler.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from service.engine.llama.sampler_chain import Candidates
from service.engine.sampling.parallel import Draw, Drawn, draw

NICE = 10  # decode steps come first; setpriority takes a thread's id, too
WAIT_S = 0.005  # most are sampled by then, and miss no step


class AsideSampler:
    """By sequence id. For the thread that owns the context."""

    def __init__(self, n_vocab: int, n_threads: int) -> None:
        self._n_vocab = n_vocab
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="aside", initializer=give_way)
        self._drawing: dict[str, Future[Drawn]] = {}

    def __len__(self) -> int:
        return len(self._drawing)

    def start(self, id: str, run: Draw, logits: Sequence[NDArray[np.float32]]) -> None:
        """Sample from a copy of these logits, a row for the run's first and one for each draft."""
        self._drawing[id] = self._pool.submit(self._draw, run, [row.copy() for row in logits])

    def wait(self, ids: Iterable[str]) -> None:
        """Until these are sampled; for WAIT_S at most."""
        wait([self._drawing[id] for id in ids], WAIT_S)

    def wait_for_one(self) -> None:
        """Until any is sampled; for WAIT_S at most."""
        wait(self._drawing.values(), WAIT_S, FIRST_COMPLETED)

    def take(self, ids: Iterable[str] | None = None) -> dict[str, Drawn]:
        """Those of these ids, or of all, that are sampled by now."""
        done = [id for id in (self._drawing if ids is None else ids) if self._drawing[id].done()]
        return {id: self._drawing.pop(id).result() for id in done}

    def drop(self, id: str, then: Callable[[], None]) -> None:
        """Discard it; `then` is called when no thread samples for it any more, which may be at once."""
        future = self._drawing.pop(id, None)
        if future is None or future.cancel():
            then()
        else:
            future.add_done_callback(lambda _: then())

    def close(self) -> None:
        """End its threads; a second call does nothing."""
        self._pool.shutdown(cancel_futures=True)

    def _draw(self, run: Draw, logits: list[NDArray[np.float32]]) -> Drawn:
        if not hasattr(self._own, "candidates"):
            self._own.candidates = Candidates(self._n_vocab)
        return draw(run, logits, self._own.candidates)


def give_way() -> None:
    """Lower the calling thread's priority."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
