"""Messages for operators on why the engine died: of a signal, or of an error in its own code. Pure.

The front, /readyz and `python -m service.engine` use them, so that the wording is the same everywhere.
"""

from __future__ import annotations

import re
import signal
import traceback
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    LOADING = "loading"  # before it was ready: nothing had been asked of it
    OWN = "own error"  # an exception in the engine's own Python
    OUTSIDE = "outside"  # a signal that no request can cause
    HANG = "hang"
    CRASH = "crash"  # native code ended the process, or llama.cpp can't continue


MOST_WORDS = 500  # characters of an error's own message: an exception may carry any amount
N_FRAMES = 3  # the innermost: where it happened, and what led there
INSTALL = "deploy/install-engine .venv/bin/python"
# Errors with messages of Python's own. Others may quote their input, which may be a client's text.
_QUOTING_NOTHING = (ArithmeticError, AttributeError, ImportError, IndexError, MemoryError, NameError, RecursionError)
# What ggml_abort (ggml.c) and the C++ runtime write last: "/build/ggml.c:123: GGML_ASSERT(x) failed".
_LAST_WORDS = re.compile(r"^(\S+/)?(?P<words>[\w.-]+\.(c|cc|cpp|cu|cuh|h|hpp|m):\d+: .+|terminate called .+)$")
_NO_SETS = ("LLAMAFILE", "OPENMP", "REPACK", "ACCELERATE", "KLEIDIAI")  # ways of computing, not instruction sets

_ADVICE = {
    signal.SIGILL: (
        "the engine was built with an instruction that this processor does not have, or that the compiler got wrong"
        "{sets}. Build it for any x86 with AVX2: CMAKE_ARGS=-DGGML_NATIVE=OFF {install}, or without one instruction "
        "set, say AMX: CMAKE_ARGS='-DCMAKE_C_FLAGS=-mno-amx-tile -DCMAKE_CXX_FLAGS=-mno-amx-tile' {install}"
    ),
    signal.SIGKILL: (
        "it was killed from outside, manually or by the kernel's out-of-memory killer (dmesg then shows "
        '"Out of memory"): in the latter case it needs more memory, a smaller RILL_N_CTX, or a smaller model'
    ),
    signal.SIGABRT: "llama.cpp aborted, because of its input or a lack of memory{words}",
    signal.SIGSEGV: "a fault in native code{words}",
    signal.SIGFPE: "an arithmetic fault in native code{words}",
    signal.SIGBUS: (
        "a page of a mapped file could not be read: the model file was truncated or overwritten while in use (put a "
        "new one next to it and rename it), its disk failed, or /dev/shm is full"
    ),
}
_OUTSIDE = "it was terminated from outside"


def by_signal(number: int, *, features: str = "", stderr: Iterable[str] = ()) -> str:
    """A death by this signal: its name, what it means, and what can be done.

    features: llama.cpp's list of its build features. stderr: the last lines of the process; of these only what
    llama.cpp and the C++ runtime write as they abort is included.
    """
    advice = _ADVICE.get(number, _OUTSIDE)  # type: ignore[call-overload]  # a number is as good as its enum
    sets = instruction_sets(features)
    last = [found["words"] for line in stderr if (found := _LAST_WORDS.match(line.strip()))]
    told = advice.format(
        sets=f" (its sets: {', '.join(sets)})" if sets else "",
        words=f": {last[-1][:MOST_WORDS]}" if last else "",
        install=INSTALL,
    )
    return f"it died of {_name(number)} (exit status {-number}): {told}"


def instruction_sets(features: str) -> list[str]:
    """Those that the build uses, of llama_print_system_info's "CPU : AVX2 = 1 | AMX_INT8 = 1 | OPENMP = 1 | "."""
    return [name for name in re.findall(r"(\w+) = 1 ", features) if name not in _NO_SETS]


def by_error(error: BaseException) -> str:
    """A death of our own code: the error's type, its message where that holds nothing of a request, and its place."""
    message = str(error)[:MOST_WORDS] if isinstance(error, _QUOTING_NOTHING) else ""
    frames = traceback.extract_tb(error.__traceback__)[-N_FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    return " ".join(
        [f"{type(error).__name__}:" if message else type(error).__name__, message, "at", " < ".join(places)]
    ).replace("  ", " ")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
