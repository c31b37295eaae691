"""A redis-server for the tests, on loopback, append-only, in a temporary directory."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.programs import find

PROGRAM = find("redis-server")


class RedisServer:
    """One process. `pause` suspends it; `restart` is a new process on the same files and port."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        assert PROGRAM is not None
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._directory)]
        options += ["--appendonly", "yes", "--save", "", "--daemonize", "no", "--loglevel", "warning"]
        self._process = subprocess.Popen([PROGRAM, *options], stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE_S
        while b"PONG" not in self.ask("PING"):
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.02)

    def ask(self, *words: str) -> bytes:
        """The raw answer to one command; empty without a server."""
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in map(str.encode, words))
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as s:
                s.sendall(request)
                return s.recv(1 << 16)
        except OSError:
            return b""

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kills it, as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()
