"""The engine's process. `python -m service.engine "prompt"` streams to stdout; with --door it serves the front.

Native code that does what a processor can't ends its process at once, so that it can't say why: where no front looks
after it, the work is done in a child, and this process says what became of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from .deaths import by_signal

WATCHED = "RILL_ENGINE_WATCHED"  # in the child's environment: the process that watches it
PR_SET_PDEATHSIG = 1  # prctl(2)
FEATURES = "from service.engine.llama import features; print(features())"
# What an operator's shell or an init sends: the child answers, and we tell how.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main() -> int:
    """Do the work, or have it done; returns the exit status, as a shell has it: 128 + the signal for one."""
    argv = sys.argv[1:]
    if WATCHED not in os.environ and not any(word.split("=")[0] == "--door" for word in argv):
        return _watch([sys.executable, "-m", "service.engine", *argv])
    if os.environ.pop(WATCHED, "") == str(os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    from .cli import run  # not before: what loads the libraries may end the process

    return run(argv)


def _watch(command: list[str]) -> int:
    child = subprocess.Popen(command, env=os.environ | {WATCHED: str(os.getpid())})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the child, too, which ends by it
    for number in FORWARDED:
        signal.signal(number, lambda number, _: child.send_signal(number))
    if (status := child.wait()) >= 0:
        return status
    print(f"engine: {by_signal(-status, features=_features(status))}", file=sys.stderr)
    return 128 - status


def _features(status: int) -> str:
    """What the library was built for, where that matters: asked in another process, for the same reason."""
    if -status != signal.SIGILL:
        return ""
    return subprocess.run([sys.executable, "-c", FEATURES], capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
