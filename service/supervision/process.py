"""One engine process: spawned with a socket, its stderr logged by line and the last lines kept, and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from service.protocol.codec import encode
from service.protocol.options import Options
from service.supervision.connection import EngineConnection

log = logging.getLogger("service.supervisor")

N_LINES = 20  # kept of stderr: an abort's message, and a backtrace's beginning
MAX_LINE_CHARS = 1500  # of one: a line of the log stays below 2 KB
# Lines that are logged: a load writes 100 at once. Lines beyond are counted; the last N_LINES are kept anyway.
BURST_LINES, LINES_PER_S = 500, 20.0
LAST_WORDS_S = 1.0  # to read what a dead process wrote: it is there already, unless a child of its own lives on


class Process:
    """`spawn` starts it; `end` kills it, if it lives, and waits for it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self.lines: deque[str] = deque(maxlen=N_LINES)
        self._allowance = Allowance(BURST_LINES, LINES_PER_S)
        self._process = process
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def spawn(cls, command: Sequence[str], options: Options, door: EngineConnection) -> Process:
        """Run the command with `--door FD`, its end of a socket pair, where its options lie ready. Raises OSError, and
        UnicodeEncodeError for options that are not UTF-8."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ours.setblocking(False)  # what has no room in its buffer is an error
                ours.sendall(encode(options))
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--door",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,  # a signal to our group must not end it: we drain first
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
        """Whether a SIGSTOP, or its like, has stopped it: it sends nothing until a SIGCONT (proc_pid_stat(5))."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:  # gone, or no Linux
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    async def end(self) -> int:
        """Its exit status, negative for a signal; `lines` has its last output."""
        if self._process.returncode is None:
            self._process.kill()
        status = await self._process.wait()
        await asyncio.wait([self._reading], timeout=LAST_WORDS_S)
        self._reading.cancel()
        return status

    async def _read(self) -> None:
        """Log its stderr, including llama.cpp's last output, one log line per line."""
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
                log.info("engine output", extra={"line": self.lines[-1], **left_out})
                n_left_out = 0
            else:
                n_left_out += 1
            await asyncio.sleep(0)  # buffered lines arrive without a pause; streams must not wait for thousands


class Allowance:
    """A token bucket: `burst` at once, then `per_s` a second. Pure: times are the caller's seconds."""

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
    """Our environment without RILL_ variables: the engine needs no API keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RILL_")}
