"""What this machine has that decides how llama.cpp is built. Only this file asks the machine; it decides nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]


@dataclass(frozen=True)
class Gpu:
    """NVIDIA's driver and the cards that it sees: driver (580, 65), compute capabilities {(9, 0)}, none if unknown."""

    driver: Version
    capabilities: frozenset[Version] = frozenset()


@dataclass(frozen=True)
class Machine:
    """cores: that may be used, by affinity and quota. load: processes that want one. flags: instruction sets."""

    cores: float = 1.0
    load: float = 0.0
    processor: str = ""
    flags: frozenset[str] = frozenset()
    compiler: str = ""
    nvcc: Version | None = None
    gpu: Gpu | None = None


def look(environment: Mapping[str, str], root: Path = Path("/")) -> Machine:
    """This machine, with the programs of the environment's PATH; files are read below root."""
    cpuinfo = _text(root / "proc/cpuinfo")
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    name = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return Machine(
        cores=_cores(root),
        load=os.getloadavg()[0],
        processor=name[1] if name else platform.machine(),
        flags=frozenset(flags[1].split() if flags else ()),
        compiler=_said(environment, environment.get("CXX", "c++"), "--version"),
        nvcc=_version(r"release (\d+\.\d+)", _said(environment, "nvcc", "--version")),
        gpu=_gpu(environment, root),
    )


def _cores(root: Path) -> float:
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    allowed = int(quota) / int(period) if quota.isdigit() else float("inf")
    return min(allowed, len(os.sched_getaffinity(0)))


def _gpu(environment: Mapping[str, str], root: Path) -> Gpu | None:
    """A driver is there if the kernel says so or its own program answers; WSL has only the program."""
    asked = "--query-gpu=compute_cap,driver_version", "--format=csv,noheader"
    cards = re.findall(r"^(\d+\.\d+), *(\d[\d.]*)$", _said(environment, "nvidia-smi", *asked), re.MULTILINE)
    driver = _version(r"Module.*?\s(\d+\.\d+)", _text(root / "proc/driver/nvidia/version"))
    if cards:
        return Gpu(_numbers(cards[0][1]), frozenset(_numbers(capability) for capability, _ in cards))
    return Gpu(driver) if driver else None


def _said(environment: Mapping[str, str], program: str, *arguments: str) -> str:
    """What the program prints, nothing if it isn't there or fails."""
    name, *more = program.split() or [program]  # CXX may be "ccache g++"
    path = shutil.which(name, path=environment.get("PATH"))
    if path is None:
        return ""
    done = subprocess.run([path, *more, *arguments], capture_output=True, text=True, env=dict(environment))
    return done.stdout if done.returncode == 0 else ""


def _version(pattern: str, text: str) -> Version | None:
    found = re.search(pattern, text)
    return _numbers(found[1]) if found else None


def _numbers(text: str) -> Version:
    return tuple(int(n) for n in text.split("."))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
