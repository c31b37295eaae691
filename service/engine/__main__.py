"""The engine's process. `python -m service.engine "prompt"` streams to stdout; with --door it serves the front.

Native code that executes an unsupported instruction kills its process at once, without a message: where no front
supervises it, the work runs in a child process, and this one reports how the child ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

from service.protocol.deaths import by_signal

WATCHED = "RILL_ENGINE_WATCHED"  # in the child's environment: the pid of the process that watches it
PR_SET_PDEATHSIG = 1  # prctl(2)
FEATURES = "from service.engine.llama.model import features; print(features())"
# Signals from an operator's shell or an init: forwarded to the child, the end of which is then reported.
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def main() -> int:
    """Do the work here or in a watched child; returns a shell's exit status: 128 + the signal for a signal."""
    argv = sys.argv[1:]
    if WATCHED not in os.environ and not any(word.split("=")[0] == "--door" for word in argv):
        return _watch([sys.executable, "-m", "service.engine", *argv])
    if os.environ.pop(WATCHED, "") == str(os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    from service.engine.cli import run

    return run(argv)


def _watch(command: list[str]) -> int:
    child = subprocess.Popen(command, env=os.environ | {WATCHED: str(os.getpid())})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child receives it too, and exits
    for number in FORWARDED:
        signal.signal(number, lambda number, _: child.send_signal(number))
    if (status := child.wait()) >= 0:
        return status
    print(f"engine: {by_signal(-status, features=_features(status))}", file=sys.stderr)
    return 128 - status


def _features(status: int) -> str:
    """The library's build features, for SIGILL only: read in another process, for the same reason."""
    if -status != signal.SIGILL:
        return ""
    return subprocess.run([sys.executable, "-c", FEATURES], capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
