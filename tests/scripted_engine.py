"""An engine process without a model: it has the real protocol and misbehaves as it is told.

python tests/scripted_engine.py BEHAVIOUR [--slow-s S] [--after FILE] --door FD

obedient: answers each submission with six tokens. patient: accepts, prefills, and sends a token every slow_s. crash:
dies (SIGKILL) at the first submission's second token. hang: no beat and no token after the first submission. stuck:
beats, but its step never ends. garbage: sends an invalid frame after the first submission. fatal: sends Fatal instead
of loading. final: a Fatal that is final. errs: has an internal error at the first submission. slow: never gets ready,
and reports the same progress again and again. late: gets ready after a while of small steps. mute: sends nothing at
all. dies: exits at once. illegal: dies of SIGILL while it loads. aborts: as llama.cpp does, at the first submission.
chatty: is obedient and writes to stderr. Each process chooses other buffer types than the last one, unless its options
name some. It is ready when it has its options. No token is sent before FILE exists.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from service.protocol.codec import Decoder, encode
from service.protocol.frames import Accepted, Beat, Build, Cancel, Fatal, Frame, Loading, Step, Submit
from service.protocol.options import Options
from tests.fakes import STORY, finish, ready

BEAT_S = 0.05


class Engine:
    """One behaviour on one connection."""

    def __init__(self, behaviour: str, door: socket.socket, slow_s: float, after: Path) -> None:
        self.behaviour, self.door, self.slow_s, self.after = behaviour, door, slow_s, after
        self.busy_since: float | None = None
        self.silent = False
        self.answering: dict[str, list[str]] = {}  # id -> texts to come

    def send(self, frame: Frame) -> None:
        self.door.sendall(encode(frame))

    def run(self) -> int:
        if self.behaviour == "dies":
            return 3
        if self.behaviour in ("fatal", "final"):
            self.send(Fatal("no such model", is_final=self.behaviour == "final"))
            return 1
        if self.behaviour == "illegal":
            self.send(Build("CPU : AVX2 = 1 | AMX_INT8 = 1 | "))
            os.kill(os.getpid(), signal.SIGILL)
        if self.behaviour == "late":
            for percent in range(1, 41):
                self.send(Loading(percent / 100))
                time.sleep(0.1)
        if self.behaviour == "chatty":
            print("ggml says hello", file=sys.stderr, flush=True)
        if self.behaviour == "mute":
            self.silent = True
        else:
            self.send(Loading(0.5))
        return self._serve()

    def _serve(self) -> int:
        decoder = Decoder()
        selector = selectors.DefaultSelector()
        selector.register(self.door, selectors.EVENT_READ)
        beat_at = word_at = time.monotonic()
        while True:
            if selector.select(min(BEAT_S, self.slow_s)):
                data = self.door.recv(1 << 16)
                if not data:
                    return 0
                for frame in decoder.feed(data):
                    self._take(frame)
            now = time.monotonic()
            if now >= beat_at and not self.silent:
                self.send(Beat(0.0 if self.busy_since is None else now - self.busy_since))
                if self.behaviour == "slow":
                    self.send(Loading(0.5))
                beat_at = now + BEAT_S
            if now >= word_at and self.after.exists():
                self._speak()
                word_at = now + self.slow_s

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Options) and self.behaviour not in ("slow", "mute"):
            chosen = f"q4_0=B{os.getpid()}" if frame.buffer_types == "auto" else frame.buffer_types
            self.send(ready(n_batch=frame.n_batch, buffer_types=chosen))
        if isinstance(frame, Cancel):
            self.answering.pop(frame.id, None)
        if not isinstance(frame, Submit):
            return
        if self.behaviour == "hang":
            self.silent = True
        elif self.behaviour == "stuck":
            self.busy_since = time.monotonic()
        elif self.behaviour == "errs":
            self.send(Fatal("ZeroDivisionError: division by zero at speculation.py:61 observe", ours=True))
            sys.exit(1)
        elif self.behaviour == "aborts":
            print("/build/ggml.c:7: GGML_ASSERT(a > 0) failed", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGABRT)
        elif self.behaviour == "garbage":
            self.door.sendall(b"\x00\x00\x00\x07garbage")
        self.send(Accepted(frame.id, 3, 100))
        if self.behaviour not in ("hang", "stuck"):
            self.send(Step(prefill=[(frame.id, 3, 3)], n_running=1, n_batch=3, n_prefill=3, kv_used=3))
            self.answering[frame.id] = list(STORY) * (1000 if self.behaviour == "patient" else 1)

    def _speak(self) -> None:
        """One token of each stream."""
        step = Step(n_running=len(self.answering), n_batch=len(self.answering))
        for id, words in list(self.answering.items()):
            if self.behaviour == "crash" and len(words) < len(STORY):
                os.kill(os.getpid(), signal.SIGKILL)
            if words:
                step.deltas.append((id, [7], words.pop(0)))
            else:
                step.finished.append(finish(id, n_generated=len(STORY)))
                del self.answering[id]
        if step.deltas or step.finished:
            self.send(step)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviour")
    parser.add_argument("--slow-s", type=float, default=0.01)
    parser.add_argument("--after", type=Path, default=Path("/"))
    parser.add_argument("--door", type=int, required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Engine(args.behaviour, socket.socket(fileno=args.door), args.slow_s, args.after).run()


if __name__ == "__main__":
    sys.exit(main())
