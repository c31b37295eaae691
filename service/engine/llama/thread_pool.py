"""The compute threads: ggml's own pool, in which waiting threads poll for a bounded time, then sleep.

Without one ggml creates new threads for every decode. In a build with OpenMP the pool is empty, and OpenMP's threads
wait in their own way.
"""

from __future__ import annotations

import ctypes
from typing import Any

from service.engine.llama.devices import cpu_function
from service.engine.llama.model import LIBRARY, LlamaError

MAX_THREADS = 512  # GGML_MAX_N_THREADS
# ggml's polling level: 131,072 polls for the next graph, 4,096 at a barrier (0011-threads-that-sleep.patch). That is
# 2 to 6 ms and 0.06 to 0.2 ms, as a pause instruction takes 15 to 45 ns. Python needs 1 ms between two decodes; a sleep
# and wake-up takes 0.05 ms.
POLL = 1


class _Params(ctypes.Structure):
    """ggml_threadpool_params (ggml.h)."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class ThreadPool:
    """Up to n_threads threads, including the calling one."""

    def __init__(self, n_threads: int) -> None:
        """Raises LlamaError where the CPU backend provides no thread pool."""
        new = cpu_function(b"ggml_threadpool_new", ctypes.c_void_p, ctypes.c_void_p)
        self._free = cpu_function(b"ggml_threadpool_free", None, ctypes.c_void_p)
        if not new or not self._free:
            raise LlamaError("the CPU's backend has no threads to give")
        params = _Params()
        LIBRARY.ggml_threadpool_params_init(ctypes.byref(params), min(n_threads, MAX_THREADS))
        params.poll = POLL
        self._pool = new(ctypes.byref(params))

    def attach(self, context: Any) -> None:
        """Have a context compute with these threads; it must be freed before they are."""
        pool = ctypes.c_void_p(self._pool)
        LIBRARY.llama_attach_threadpool(ctypes.cast(context, ctypes.c_void_p), pool, pool)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        if self._pool:
            self._free(self._pool)
            self._pool = None
