"""How many threads pay while other processes run on these cores. Reads /proc; changes nothing.

llama.cpp's threads wait for each other after every operation, so one that shares its core with another process delays
all. On two cores with one busy, 0.5B model: two threads make 24 tokens/s, one makes 38 (on idle cores, two make 65).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PERIOD_S = 0.5  # /proc counts in hundredths of a second; a shorter load is not worth a change
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Helper(Protocol):
    """Another process of this engine, which computes at times."""

    is_busy: bool

    def cpu_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds since boot or start: of all work on our cores, of our own, and of our threads' waiting for a core."""

    at: float
    all: float
    own: float
    waited: float


class Threads:
    """At most n_threads, one fewer for each core that other processes want. The helper gets one while it is busy, from
    the next decode on, which takes 17 ms instead of 3 if they share a core (the starter, 36 rows)."""

    def __init__(
        self,
        n_threads: int,
        *,
        helper: Helper | None = None,
        cpus: Collection[int] | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self.n_threads = n_threads
        self._cpus = frozenset(os.sched_getaffinity(0) if cpus is None else cpus)
        self._helper, self._root, self._clock, self._own = helper, root, clock, own
        self._n_free = len(self._cpus)
        self._last = self._look()

    def choose(self) -> int:
        """Threads for the next decode. Reads the load at most twice a second, as the difference to the last time."""
        if self._clock() - self._last.at >= PERIOD_S:
            now, last = self._look(), self._last
            self._last = now
            # CPU time that others used, plus our threads' waiting for it: together, what the others want.
            wanted = ((now.all - last.all) - (now.own - last.own) + (now.waited - last.waited)) / (now.at - last.at)
            wanted = min(max(wanted, 0.0), len(self._cpus))  # counters of a virtual machine may jump
            self._n_free = len(self._cpus) - int(wanted + 0.25)  # three quarters of a core are as bad as a whole one
        is_helped = self._helper is not None and self._helper.is_busy
        return max(1, min(self.n_threads, self._n_free - is_helped))

    def _look(self) -> Usage:
        helper_s = 0.0 if self._helper is None else self._helper.cpu_s()
        return Usage(self._clock(), self._all(), self._own() + helper_s, self._waited())

    def _all(self) -> float:
        """/proc/stat: cpuN user nice system idle iowait irq softirq steal ... in ticks (proc(5))."""
        ticks = 0
        for name, *fields in filter(None, map(str.split, _read(self._root / "proc/stat").splitlines())):
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in self._cpus:
                user, nice, system, _idle, _iowait, irq, softirq = map(_count, (*fields, *["0"] * 7)[:7])
                ticks += user + nice + system + irq + softirq
        return ticks / TICKS_PER_S

    def _waited(self) -> float:
        """Seconds, of all our threads."""
        tasks = self._root / "proc/self/task"
        try:
            return sum(schedstat(task / "schedstat")[1] for task in tasks.iterdir())
        except OSError:
            return 0.0


def schedstat(path: Path) -> tuple[float, float]:
    """Seconds that a thread has run, and has waited to run (sched-stats.rst); zeros where that can't be read."""
    fields = _read(path).split()
    return (_count(fields[0]) / 1e9, _count(fields[1]) / 1e9) if len(fields) == 3 else (0.0, 0.0)


def _count(field: str) -> int:
    return int(field) if field.isdigit() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
