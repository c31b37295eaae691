"""The queue of requests to be tokenized, one after the other: slow ones in a process that can be killed (preparer.py).

The tenant served longest ago is next, alternately with its shortest and its oldest request: none waits behind another
tenant's megabytes for longer than one request may take, nor behind cancelled ones, and cancels never wait. A tenant
that submits without pause waits until its token bucket has refilled (read_budget.py).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from service.engine.host.threads import schedstat
from service.engine.llama.deep_stack import SHALLOW_BYTES
from service.engine.prompts.read_budget import PromptBudget
from service.protocol.codec import Decoder, encode
from service.protocol.frames import Rejected, Submit

WALL_S = 60.0  # when the limit of CPU time does not end it: on an overloaded machine, or a stopped process
TOO_LONG, FATAL = "takes too long to process.", "can't be processed."


class PreparerDied(Exception):
    """The process ended without an answer, with this exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.is_late = status in (-signal.SIGPROF, -signal.SIGKILL)  # its CPU time was spent, or WALL_S


class Preparer:
    """The process, started when needed and restarted when it has died. For one thread."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self.is_busy = False  # for other threads, too: it computes

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._process is not None:
            return
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(WALL_S)
        with theirs:
            command = [argument.format(fd=theirs.fileno()) for argument in self._command]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # llama.cpp prints a grammar that it refuses
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # a vocabulary needs no GPU; its memory is the engine's
            )

    def ask(self, submit: Submit) -> Submit | Rejected:
        """Have a request tokenized. Raises PreparerDied; the next process is starting then."""
        self.is_busy = True
        try:
            return self._ask(submit)
        finally:
            self.is_busy = False

    def _ask(self, submit: Submit) -> Submit | Rejected:
        self.start()
        assert self._socket is not None
        decoder = Decoder()
        with suppress(OSError):  # it ended, or WALL_S passed
            self._socket.sendall(encode(submit))
            while data := self._socket.recv(1 << 18):
                if frames := decoder.feed(data):
                    assert isinstance(frames[0], Submit | Rejected)
                    return frames[0]
        status = self.close()
        self.start()
        raise PreparerDied(status)

    def cpu_s(self) -> float:
        """CPU seconds of this process and those before it."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran_s = schedstat(Path(f"/proc/{self._process.pid}/schedstat"))[0] if self._process else 0.0
        return ended.ru_utime + ended.ru_stime + ran_s

    def close(self) -> int:
        """End it; returns its exit status, negative by signal: SIGKILL if it did not end by itself."""
        if self._process is None or self._socket is None:
            return 0
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):
            return self._ended(self._process.wait(1.0))
        self._process.kill()
        return self._ended(self._process.wait())

    def _ended(self, status: int) -> int:
        self._process = self._socket = None
        return status


def command(model: Path, n_ctx: int, chat_template: str) -> list[str]:
    """How to start one for a model, one stream's limit in tokens and RILL_CHAT_TEMPLATE."""
    return [sys.executable, "-m", "service.engine.prompts.preparer", "{fd}", str(model), str(n_ctx), chat_template]


class Preparation:
    """The queue before a Preparer, or Inbox.read for quick requests, and the loop over it. Safe from any thread."""

    def __init__(
        self,
        ask: Callable[[Submit], Submit | Rejected],
        done: Callable[[Submit | Rejected], None],
        budget: PromptBudget | None = None,
    ) -> None:
        """done: called with each that was not cancelled, tokenized or rejected, under a lock that `cancel` takes, too.

        budget: None for quick requests: no tenant has to wait, and each one's are tokenized in order of arrival.
        """
        self._ask, self._done, self._budget = ask, done, budget
        self._lock = threading.Condition()
        self._waiting: list[Submit] = []
        self._asked: Submit | None = None
        self._is_shortest = True
        self._turn = 0
        self._turns: dict[str, int] = {}  # by tenant: its last turn

    def put(self, submit: Submit) -> None:
        """Queue it."""
        with self._lock:
            self._waiting.append(submit)
            self._lock.notify()

    def cancel(self, id: str) -> bool:
        """Drop a request that waits or is being tokenized; False: it is not here."""
        with self._lock:
            if self._asked is not None and self._asked.id == id:
                self._asked = None
                return True
            left = [submit for submit in self._waiting if submit.id != id]
            is_here = len(left) < len(self._waiting)
            self._waiting = left
            return is_here

    def wait(self, timeout_s: float) -> None:
        """Wait until there is a request, or for timeout_s."""
        with self._lock:
            self._lock.wait_for(lambda: self._waiting, timeout_s)

    def run(self) -> None:
        """Process requests forever, on a thread of its own."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for one, and have it tokenized."""
        with self._lock:
            while not (ready := self._ready()):
                self._lock.wait(min(map(self._wait_s, self._waiting), default=None))
            submit = self._asked = self._next(ready)
        with self._budget.reading(submit.tenant) if self._budget else nullcontext():
            answered = self._read(submit)
        with self._lock:
            if self._asked is submit:
                self._done(answered)
            self._asked = None

    def _read(self, submit: Submit) -> Submit | Rejected:
        for _ in range(2):  # the first death may have had another cause: an earlier request, the system
            try:
                return self._ask(submit)
            except PreparerDied as e:
                if e.is_late:
                    return _refusal(submit, TOO_LONG)
                sys.stderr.write(f"engine: the process that prepares long prompts and grammars died ({e})\n")
        return _refusal(submit, FATAL)

    def _ready(self) -> list[Submit]:
        return [submit for submit in self._waiting if self._wait_s(submit) <= 0]

    def _wait_s(self, submit: Submit) -> float:
        return self._budget.wait_s(submit.tenant) if self._budget else 0.0

    def _next(self, ready: list[Submit]) -> Submit:
        least = min(self._turns.get(submit.tenant, 0) for submit in ready)
        mine = [submit for submit in ready if self._turns.get(submit.tenant, 0) == least]
        submit = min(mine, key=lambda s: s.n_characters) if self._is_shortest and self._budget else mine[0]
        self._is_shortest = not self._is_shortest
        self._waiting.remove(submit)
        self._turn += 1
        self._turns = {s.tenant: self._turns.get(s.tenant, 0) for s in self._waiting} | {submit.tenant: self._turn}
        return submit


def _refusal(submit: Submit, why: str) -> Rejected:
    """Of a request that ended the process: a short prompt can't have been the cause."""
    if submit.structure and submit.n_prompt_characters <= SHALLOW_BYTES:
        return Rejected(submit.id, "invalid_request", f"{submit.structure.field}: it {why}", submit.structure.field)
    return Rejected(submit.id, "invalid_prompt", f"The prompt {why}")
