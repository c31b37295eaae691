"""One process of the engine: spawned with a door, its stderr logged a line each and the last ones kept, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from pathlib import Path

from service.door import Door

log = logging.getLogger("service.supervisor")

N_LINES = 20  # kept of stderr: an abort's message, and a backtrace's beginning
MAX_LINE_CHARS = 1500  # of one: a line of the log stays below 2 KB
# Lines that are logged: a load says 100 at once. Beyond, they are counted; the last words are kept all the same.
BURST_LINES, LINES_PER_S = 500, 20.0
LAST_WORDS_S = 1.0  # to read what a dead process wrote: it is there already, unless a child of its own lives on


class Process:
    """`end` kills it, if it lives, and waits for it; it is what became of one `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=N_LINES)
        self._allowance = Allowance(BURST_LINES, LINES_PER_S)
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls, command: list[str], door: Door) -> Process:
        """Run the command with `--door FD`, the other end of the door. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--door",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # a signal to our group is ours to answer: we drain first
                    env=_environment(),
                )
        except BaseException:  # of the system, or we are being stopped
            ours.close()
            raise
        self = cls(process)
        await asyncio.get_running_loop().create_unix_connection(lambda: door, sock=ours)
        return self

    @property
    def is_stopped(self) -> bool:
        """Whether a SIGSTOP, or its like, holds it: nothing comes from it until a SIGCONT does (proc_pid_stat(5))."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:  # gone, or no Linux
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    async def end(self) -> int:
        """Its exit status, negative by signal; `lines` holds its last words then."""
        if self._process.returncode is None:
            self._process.kill()
        status = await self._process.wait()
        await asyncio.wait([self._reading], timeout=LAST_WORDS_S)
        self._reading.cancel()
        return status

    async def _read(self) -> None:
        """What it writes to stderr, llama.cpp's last words among it, a log line each."""
        assert self._process.stderr is not None
        n_left_out, loop = 0, asyncio.get_running_loop()
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the reader's buffer, and dropped by it
                continue
            if not line:
                return
            self.lines.append(line.decode(errors="replace").rstrip()[:MAX_LINE_CHARS])
            if self._allowance.take(loop.time()):
                left_out = {"left_out": n_left_out} if n_left_out else {}
                log.info("engine says", extra={"line": self.lines[-1], **left_out})
                n_left_out = 0
            else:
                n_left_out += 1
            await asyncio.sleep(0)  # a buffered line comes without a pause, and streams must not wait for thousands


class Allowance:
    """So many at once, and so many a second after that. Pure: times are seconds of the caller's clock."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Whether there is one left, which is taken."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _environment() -> dict[str, str]:
    """Ours, less what is only ours: API keys are none of the engine's business."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
