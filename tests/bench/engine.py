"""A fake engine that computes nothing: each step is one frame with a token of every stream, as fast as the front reads.

python tests/bench/engine.py --streams N [--steps-per-s HZ] [--idle] --door FD

It starts stepping when it has N streams. Without HZ the next frame is sent when the front has read the last one: there
is one frame per wake-up, as with a real engine, whose steps take longer. A delta's text is the time at
which it was sent, in monotonic seconds, from which a reader on this machine computes its latency.
idle: each stream gets its first token and nothing more.
"""

from __future__ import annotations

import argparse
import fcntl
import selectors
import signal
import socket
import struct
import sys
import termios
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.protocol.codec import Decoder, encode
from service.protocol.frames import Accepted, Beat, Cancel, Frame, Step, Submit
from tests.fakes import ready

BEAT_S = 0.5
LOOK_S = 0.0002  # between two polls whether the front has read


class Engine:
    """One connection to the front, and its streams."""

    def __init__(self, door: socket.socket, *, n_streams: int, steps_per_s: float, idle: bool) -> None:
        self.door, self.n_streams, self.idle = door, n_streams, idle
        self.step_s = 1 / steps_per_s if steps_per_s else 0.0
        self.step_at = 0.0
        self.ids: dict[str, None] = {}  # in order of arrival

    def run(self) -> None:
        """Runs until the front closes its end."""
        self.send(ready(n_seq=2 * self.n_streams))
        decoder, selector, beat_at = Decoder(), selectors.DefaultSelector(), 0.0
        selector.register(self.door, selectors.EVENT_READ)
        while True:
            if selector.select(LOOK_S if self._is_stepping else BEAT_S):
                data = self.door.recv(1 << 18)
                if not data:
                    return
                for frame in decoder.feed(data):
                    self.take(frame)
            now = time.monotonic()
            if now >= beat_at:
                self.send(Beat(0.0))
                beat_at = now + BEAT_S
            if self._is_stepping and now >= self.step_at and not self._n_unread():
                self.step_at = max(now, self.step_at + self.step_s)
                self.step(list(self.ids))

    def take(self, frame: Frame) -> None:
        if isinstance(frame, Submit):
            self.ids[frame.id] = None
            self.send(Accepted(frame.id, 3, 1 << 20))
            self.send(Step(prefill=[(frame.id, 3, 3)], n_running=len(self.ids), n_batch=3, n_prefill=3))
            self.step([frame.id])
        elif isinstance(frame, Cancel):
            self.ids.pop(frame.id, None)

    def step(self, ids: list[str]) -> None:
        text = f"{time.monotonic():.6f}"
        self.send(Step(deltas=[(id, [7], text) for id in ids], n_running=len(ids), n_batch=len(ids)))

    def send(self, frame: Frame) -> None:
        self.door.sendall(encode(frame))

    @property
    def _is_stepping(self) -> bool:
        return not self.idle and len(self.ids) >= self.n_streams

    def _n_unread(self) -> int:
        """Bytes sent that the front has not read."""
        (n,) = struct.unpack("i", fcntl.ioctl(self.door, termios.TIOCOUTQ, bytes(4)))
        return int(n)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--steps-per-s", type=float, default=0.0)
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--door", type=int, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    door = socket.socket(fileno=args.door)
    Engine(door, n_streams=args.streams, steps_per_s=args.steps_per_s, idle=args.idle).run()


if __name__ == "__main__":
    main()
