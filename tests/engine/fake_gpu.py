"""A fake GPU: fake_gpu.c compiled, and Python run in a process of its own that has it registered."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from service.engine.llama.model import LIBRARY
from tests.engine.child import ROOT, environment
from tests.patience import PATIENCE_S

# Registered as ggml registers backends at run time; a build with the CPU linked in doesn't look for more itself.
START = """
import ctypes, sys
from service.engine.llama import model as llama
llama.start(lambda level, text: None)
llama.LIBRARY.ggml_backend_load.argtypes = [ctypes.c_char_p]
llama.LIBRARY.ggml_backend_load.restype = ctypes.c_void_p
assert llama.LIBRARY.ggml_backend_load(sys.argv.pop(1).encode())
"""
ENGINE = "from service.engine.cli import run\nsys.exit(run(sys.argv[1:]))"


def build(folder: Path) -> Path:
    """The backend's shared library, made with the C compiler that every machine with this engine has."""
    library = folder / "libggml-fake.so"
    headers = Path(sysconfig.get_path("platlib")) / "include"
    source = Path(__file__).with_name("fake_gpu.c")
    libggml = Path(LIBRARY._name).with_name("libggml.so.0")  # by its name it is the one that libllama has loaded
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", "-I", str(headers)]
    subprocess.run(["cc", *flags, "-o", str(library), str(source), str(libggml)], check=True)
    return library


def run(library: Path, gpus: str, script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`script` with those cards (FAKE_GPUS) registered."""
    return subprocess.run(
        [sys.executable, "-c", START + script, str(library), *arguments],
        cwd=ROOT,
        env=environment(FAKE_GPUS=gpus, **env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def engine(library: Path, gpus: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python -m service.engine` does in its child, with those cards."""
    return run(library, gpus, ENGINE, "--n-threads", "1", *arguments)
