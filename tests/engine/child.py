"""The engine as the front sees it: a child process at the other end of a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from service.protocol.codec import Decoder, encode
from service.protocol.frames import Beat, Frame, Ready
from service.protocol.options import Options
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
F = TypeVar("F")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what the engine has set in it, or the caller for Python."""
    unwanted = ("GGML_NO_BACKTRACE", "GGML_CPU_TILED_MM", "PYTHONUNBUFFERED")
    return {k: v for k, v in os.environ.items() if k not in unwanted} | more


class Child:
    """`python -m service.engine --door`, its frames in the order of arrival. With a model it is sent its options."""

    def __init__(self, model: Path | None = None, **options: Any) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE_S)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.engine", "--door", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self._decoder = Decoder()
        self._arrived: deque[Frame] = deque()
        self.seen: list[Frame] = []
        if model:
            self.send(Options(model=str(model), n_threads=1, **options))

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            if self.process.stderr is not None:
                self.process.stderr.close()

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(encode(f) for f in frames))

    def receive(self) -> Frame:
        """The next frame. Raises EOFError when the engine has closed its end."""
        while not self._arrived:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._arrived.extend(self._decoder.feed(data))
        self.seen.append(self._arrived.popleft())
        return self.seen[-1]

    def wait_for(self, kind: type[F], that: Callable[[F], Any] = lambda _: True) -> F:
        """The next frame of a kind for which `that` holds."""
        while True:
            frame = self.receive()
            if isinstance(frame, kind) and that(frame):
                return frame

    def ready(self) -> Child:
        """Waits until it is ready."""
        self.wait_for(Ready)
        return self

    def rest(self) -> list[Frame]:
        """All frames up to the end of the connection, except beats."""
        rest: list[Frame] = []
        try:
            while True:
                frame = self.receive()
                if not isinstance(frame, Beat):
                    rest.append(frame)
        except EOFError:
            return rest

    def exit_status(self) -> int:
        return self.process.wait(PATIENCE_S)
