"""How llama.cpp is to be built, from what was found and asked for. Pure: no file, no process, no clock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deploy.engine.machine import Gpu, Machine, Version

# ggml's own thread pool, whose threads poll for a bounded time and then sleep (service/engine/thread_pool.py).
THREADS = "-DGGML_OPENMP=OFF"
LIBRARIES_ONLY = (  # no llama-server, tools, examples, tests, and nothing of what they share
    *("-DLLAVA_BUILD=OFF", "-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF"),
    *("-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_CURL=OFF"),
)
WHEELS_DRIVER = (580,)  # CUDA 13, which deploy/lock/cuda.txt pins, needs this driver
WHEELS_CARD = (7, 5)  # the oldest card that CUDA 13 compiles for: T4
NEW_CARD, NEW_CARD_NVCC = (10, 0), (12, 8)  # Blackwell, and the first toolkit that knows it
OLDEST_NVCC = (11, 8)  # the first that knows H100 and L4
CPU_S = 200.0  # of one core, to compile all but CUDA: 154 s were measured with GCC 12 on an AMD EPYC
VARIANT_S, ALL_VARIANTS = 40.0, 14  # ... one more kind of CPU, and as many as ggml knows of x86-64
CUDA_S = 1800.0  # ... CUDA's part, for each kind of card: 15 minutes on two cores


class Refused(Exception):
    """It can't be built as asked; the text says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """compiler: whose CUDA compiler, "toolkit" or "wheels", "" for none. cards: what CMake calls architectures."""

    compiler: str = ""
    cards: tuple[str, ...] = ()
    said: str = ""

    def cmake_args(self, own: str, cuda_root: str = "") -> str:
        """CMake's arguments; own are the user's, which come last and so win. cuda_root: where NVIDIA's wheels lie."""
        arguments = [*LIBRARIES_ONLY, THREADS]
        if self.compiler:
            arguments.append("-DGGML_CUDA=ON")
        if self.cards:
            arguments.append(f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(self.cards)}")
        if self.compiler == "wheels":
            arguments += [f"-DCUDAToolkit_ROOT={cuda_root}", f"-DCMAKE_CUDA_COMPILER={cuda_root}/bin/nvcc"]
        return " ".join([*arguments, *own.split()])

    def seconds(self, machine: Machine, own: str = "") -> float:
        """What compiling will take, roughly: as many compilers as cores, each beside its part of what runs already."""
        cards = re.search(r"CMAKE_CUDA_ARCHITECTURES=([^ ]+)", own)
        n_cards = len(cards[1].split(";")) if cards else len(self.cards) or 1
        work = CPU_S + VARIANT_S * (_n_variants(own) - 1) + (CUDA_S * n_cards if self.compiler else 0)
        return work / (machine.cores * machine.cores / (machine.cores + machine.load))


def choose(wish: str | None, machine: Machine, own: str = "") -> Plan:
    """The CPU, or a card and its compiler. wish is CUDA's value in the environment: "0" never, "1" in any case.

    Raises Refused if CUDA is wished for and there is neither a compiler nor a card to compile for."""
    if wish == "0" or (wish != "1" and machine.gpu is None):
        return Plan()
    gpu = machine.gpu or Gpu((0,))
    cards = tuple(f"{''.join(map(str, card))}-real" for card in sorted(gpu.capabilities))
    if "CMAKE_CUDA_ARCHITECTURES" in own:
        cards = ()
    if machine.nvcc and _knows(machine.nvcc, gpu):
        return Plan("toolkit", cards, f"with the CUDA toolkit {_text(machine.nvcc)}{_for(cards)}")
    hindrance = _hindrance(machine, own)
    if not hindrance:
        return Plan("wheels", cards, f"with NVIDIA's compiler from wheels (about 1 GB to download){_for(cards)}")
    if wish == "1":
        raise Refused(f"CUDA=1, but there is no CUDA toolkit (nvcc), and {hindrance}.")
    return Plan(said=f"for the CPU only: there is an NVIDIA driver, but {hindrance}; a CUDA toolkit would do too")


def _n_variants(own: str) -> int:
    """For how many kinds of CPU ggml's part is compiled."""
    named = re.search(r"GGML_CPU_VARIANTS=([^ ]+)", own)
    if "GGML_CPU_ALL_VARIANTS=ON" not in own:
        return 1
    return len(named[1].split(";")) if named else ALL_VARIANTS


def _knows(nvcc: Version, gpu: Gpu) -> bool:
    return nvcc >= (NEW_CARD_NVCC if any(card >= NEW_CARD for card in gpu.capabilities) else OLDEST_NVCC)


def _hindrance(machine: Machine, own: str) -> str:
    """Why NVIDIA's compiler from wheels is of no use here, empty if it is."""
    gpu = machine.gpu
    if "CMAKE_CUDA_ARCHITECTURES" in own:
        return ""
    if gpu is None or not gpu.capabilities:
        return "no card is seen (nvidia-smi), so that it isn't known what to compile for"
    if gpu.driver < WHEELS_DRIVER:
        return f"the driver is {_text(gpu.driver)}, where NVIDIA's compiler from wheels needs {_text(WHEELS_DRIVER)}"
    if min(gpu.capabilities) < WHEELS_CARD:
        return f"the card's compute capability is below {_text(WHEELS_CARD)}, which that compiler no longer knows"
    return ""


def _for(cards: tuple[str, ...]) -> str:
    return f", for compute capability {', '.join(card.removesuffix('-real') for card in cards)}" if cards else ""


def _text(version: Version) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True)
class Attempt:
    """One way to build: without these instruction sets ("" for with all), by these arguments."""

    without: str = ""
    compiler_flags: str = ""
    cmake_args: str = ""


def attempts(flags: Iterable[str], cmake_args: str) -> tuple[Attempt, ...]:
    """The ways to build, fastest first: what dies is built again without the newest instruction set that is here.

    A build that isn't for this processor (GGML_NATIVE=OFF) has one way: its arguments chose what it uses."""
    found, ways, off = set(flags), [Attempt()], ""
    if "GGML_NATIVE=OFF" in cmake_args:
        return tuple(ways)
    if "amx_tile" in found:
        off = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        ways.append(Attempt("AMX", off))
    if "avx512f" in found:
        ways.append(Attempt("AMX and AVX-512" if off else "AVX-512", f"{off} -mno-avx512f".strip()))
    if "avx2" in found:
        ways.append(Attempt("all that came after AVX2", "", "-DGGML_NATIVE=OFF"))
    return tuple(ways)


def key(plan: Plan, machine: Machine, environment: Mapping[str, str], contents: Iterable[bytes], python: str) -> str:
    """The name of a wheel: whatever makes another library. Not where anything lies: two checkouts share one.

    contents: the lock files and patches that it is built from; python: sys.version."""
    said = [
        plan.cmake_args(environment.get("CMAKE_ARGS", "")),
        plan.compiler,
        machine.compiler,
        str(machine.nvcc),
        python,
    ]
    said += [machine.processor, " ".join(sorted(machine.flags))]
    said += [environment.get(name, "") for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")]
    digest = hashlib.sha256()
    for part in (*(text.encode() for text in said), *contents):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]
