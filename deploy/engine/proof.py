"""Whether a build lives: prove.py decodes with it in a child, and this tells what came of that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.engine.plan import Refused

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "service" / "starter" / "rill-starter-q8_0.gguf"
PROOF_S = (
    300.0  # 0.7 s on an idle core; beside a dozen busy processes and on a card that is first initialized, far more
)
NOT_FOR_THIS_PROCESSOR = 3  # prove.py's exit status
# Threads that wait for each other sleep: spinning, they would wait for the neighbours' time slices.
QUIET = {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"}


@dataclass(frozen=True)
class Death:
    """What a build died of. by: the signal, none if it ended by itself with a complaint. on: what it decoded then.

    is_foreign: it did not begin, since it is for another processor."""

    by: signal.Signals | None
    on: str = ""
    words: str = ""
    is_foreign: bool = False

    def __str__(self) -> str:
        if self.by is None:
            return self.words
        return f"it died of {self.by.name} ({signal.strsignal(self.by)}){f' with {self.on} weights' if self.on else ''}"

    @property
    def is_codes_fault(self) -> bool:
        """Whether other instructions may mend it: not if it was killed (SIGKILL: memory) or can't start."""
        return self.by in (signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT)


def drop_dead_variants(package: Path, directory: Path) -> list[str]:
    """Deletes those of an image's CPU libraries that die on this processor, and says which: the next is loaded then.

    Raises Refused if none of those that this processor can run lives."""
    said, n_alive = [], 0
    for path in sorted(directory.glob("libggml-cpu-*.so")):
        death = prove(package, {}, path)
        if death is None:
            n_alive += 1
        elif not death.is_foreign:
            path.unlink()
            said.append(f"{path.name} is left out: {death}")
    if not n_alive:
        raise Refused("; ".join(said) or "none of the CPU libraries is for this processor.")
    return said


def prove(package: Path, libraries: dict[str, str], backend: Path | None = None) -> Death | None:
    """None if the library in the package (a directory llama_cpp) lives, with this CPU library if it has several."""
    command = [sys.executable, "-m", "deploy.engine.prove", str(package), str(STARTER)]
    command += [str(backend)] if backend else []
    environment = os.environ | QUIET | libraries
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PROOF_S)
    except subprocess.TimeoutExpired:
        return Death(None, words=f"it did not end within {PROOF_S:.0f} s")
    if done.returncode == 0:
        return None
    on = done.stdout.splitlines()[-1:] or [""]
    if done.returncode < 0:
        return Death(signal.Signals(-done.returncode), on[0])
    if done.returncode == NOT_FOR_THIS_PROCESSOR:
        return Death(None, words="it is for another processor", is_foreign=True)
    return Death(None, on[0], (done.stderr.strip().splitlines() or ["it failed without a word"])[-1])
