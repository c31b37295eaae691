"""Runs a C function that recurses once for each character of its input on a thread with a stack large enough for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# Some vocabularies (Falcon, DeepSeek) are split by std::regex, which takes 0.5 KiB of stack for each character of a
# long word: 1 MiB of one letter overflows a thread's 8 MiB and kills the process. Up to this size it can't.
SHALLOW_BYTES = 8192
BYTES_PER_CHARACTER = 1024  # twice what was measured
SPARE_BYTES = 8 << 20


def run_deep(n_bytes: int, run: Callable[[], Result]) -> Result:
    """`run()`, on a stack deep enough for an input of n_bytes. Raises MemoryError when there is no such stack."""
    if n_bytes <= SHALLOW_BYTES:
        return run()
    result: list[Result] = []
    before = threading.stack_size(n_bytes * BYTES_PER_CHARACTER + SPARE_BYTES)
    try:
        thread = threading.Thread(target=lambda: result.append(run()), name="deep")
        thread.start()
    except RuntimeError as e:
        raise MemoryError(f"no stack for an input of {n_bytes} bytes") from e
    finally:
        threading.stack_size(before)
    thread.join()
    return result[0]
