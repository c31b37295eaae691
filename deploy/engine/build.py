"""Compiles llama-cpp-python: its locked sources, our patches, CMake through pip. plan.py decided with what."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.engine.plan import Attempt, Refused
from deploy.engine.progress import left, tenths
from deploy.engine.proof import ROOT

LOCK = ROOT / "deploy" / "lock"
# What NVIDIA's driver exports and ggml's CUDA library is linked with. Where it is built there may be no driver; this
# stand-in satisfies the linker, and the driver's own library of the same name is taken where it runs.
DRIVER = (
    *("cuDeviceGet", "cuDeviceGetAttribute", "cuGetErrorString", "cuMemAddressFree", "cuMemAddressReserve"),
    *("cuMemCreate", "cuMemGetAllocationGranularity", "cuMemMap", "cuMemRelease", "cuMemSetAccess", "cuMemUnmap"),
)


def patches() -> list[Path]:
    return sorted((ROOT / "deploy" / "patches").glob("*.patch"))


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments])
    if done.returncode:
        raise Refused(f"pip {arguments[0]} failed; what it said stands above.")


@dataclass(frozen=True)
class Workshop:
    """Where wheels are built: version of llama-cpp-python, CMake's arguments, a directory for what comes between."""

    version: str
    cmake_args: str
    directory: Path

    def build(self, attempt: Attempt) -> Path:
        """The wheel. Raises Refused, with the compiler's last words before it, if it does not build."""
        sources = self._sources()
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "CMAKE_ARGS": f"{self.cmake_args} {attempt.cmake_args}".strip(),
            **{n: f"{os.environ.get(n, '')} {attempt.compiler_flags}".strip() for n in ("CFLAGS", "CXXFLAGS")},
        }
        to = sources.with_suffix(".wheel")
        command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        with subprocess.Popen(
            [*command, "-w", str(to), str(sources)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            said = show(process.stdout)
        if process.returncode:
            print(*said[-40:], sep="", file=sys.stderr)
            raise Refused("llama.cpp did not build: a C++ compiler (g++ or clang) must be on this machine.")
        return next(to.glob("*.whl"))

    def _sources(self) -> Path:
        """Unpacked and patched, anew each time: a build leaves its libraries in them."""
        archive = self.directory / f"llama_cpp_python-{self.version}.tar.gz"
        if not archive.exists():
            pip("install", "-q", "--require-hashes", "-r", str(LOCK / "build.txt"))
            locked = "--require-hashes", "-r", str(LOCK / "engine.txt")
            pip("download", "-q", "--no-deps", "--no-build-isolation", "-d", str(self.directory), *locked)
        to = self.directory / f"sources-{time.monotonic_ns()}"
        to.mkdir()
        subprocess.run(["tar", "-C", str(to), "-xzf", str(archive)], check=True)
        sources = to / f"llama_cpp_python-{self.version}"
        for patch in patches():
            command = [sys.executable, "-m", "patch_ng", "-q", "-p", "1", "-d", str(sources), str(patch)]
            if subprocess.run(command).returncode:
                raise Refused(f"{patch.name} does not apply to llama-cpp-python {self.version}.")
        return sources


def show(lines: Iterator[str]) -> list[str]:
    """Tells how far a build has come, in one line that moves (a terminal) or one every tenth (a log); all it said."""
    start, said = time.monotonic(), []

    def timed() -> Iterator[tuple[str, float]]:
        for line in lines:
            said.append(line)
            yield line, time.monotonic() - start

    if sys.stdout.isatty():
        for words in filter(None, (left(*each) for each in timed())):
            print(f"\r{words}\033[K", end="", flush=True)
        print()
    else:
        for words in tenths(timed()):
            print(words, flush=True)
    return said


def nvidia_root(site: Path) -> Path:
    """Where NVIDIA's wheels put CUDA in a virtual environment."""
    return site / "nvidia" / "cu13"


def install_nvidia(site: Path) -> None:
    """The compiler and run-time libraries from wheels, with the names that CMake and a linker look for."""
    print("Installing NVIDIA's compiler and libraries (about 1 GB)", flush=True)
    pip("install", "-q", "--require-hashes", "-r", str(LOCK / "cuda.txt"))
    libraries = nvidia_root(site) / "lib"
    links = {libraries / f"{name}.so": f"{name}.so.13" for name in ("libcudart", "libcublas", "libcublasLt")}
    for link, target in {**links, nvidia_root(site) / "lib64": "lib"}.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    stub = libraries / "stubs" / "libcuda.so"
    stub.parent.mkdir(exist_ok=True)
    source = "\n".join(f"int {name}(void) {{ return 999; }}" for name in DRIVER)  # 999: CUDA_ERROR_UNKNOWN
    command = [
        os.environ.get("CC", "cc"),
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-x",
        "c",
        "-",
        "-o",
        str(stub),
    ]
    if subprocess.run(command, input=source, text=True).returncode:
        raise Refused("no C compiler: g++ or clang must be on this machine.")
