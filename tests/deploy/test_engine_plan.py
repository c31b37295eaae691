"""What is compiled, for which card, with which compiler: decided from a description of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.engine.machine import Gpu, Machine, Version, look
from deploy.engine.plan import Attempt, Plan, Refused, attempts, choose, key

H100, T4, V100, B200 = (9, 0), (7, 5), (7, 0), (10, 0)
NEW, OLD = (580, 65), (550, 54)
CPU, ANY = Plan(), Machine()


def machine(*cards: Version, driver: Version = NEW, nvcc: Version | None = None) -> Machine:
    return Machine(gpu=Gpu(driver, frozenset(cards)), nvcc=nvcc)


@pytest.mark.parametrize(
    ("wish", "found", "compiler", "cards"),
    [
        (None, Machine(), "", ()),
        (None, Machine(nvcc=(12, 8)), "", ()),  # a toolkit without a card
        (None, machine(H100), "wheels", ("90-real",)),
        (None, machine(H100, T4), "wheels", ("75-real", "90-real")),
        (None, machine(H100, nvcc=(12, 4)), "toolkit", ("90-real",)),
        (None, machine(B200, nvcc=(12, 4)), "wheels", ("100-real",)),  # a toolkit that does not support the card
        (None, machine(B200, nvcc=(12, 8)), "toolkit", ("100-real",)),
        (None, machine(H100, nvcc=(11, 5)), "wheels", ("90-real",)),
        (None, machine(H100, driver=OLD), "", ()),
        (None, machine(V100), "", ()),
        (None, machine(V100, nvcc=(12, 8)), "toolkit", ("70-real",)),
        (None, machine(), "", ()),  # a driver, but no visible card
        ("0", machine(H100, nvcc=(12, 8)), "", ()),
        ("1", Machine(nvcc=(12, 8)), "toolkit", ()),  # an image, built without a card
        ("1", machine(H100), "wheels", ("90-real",)),
    ],
)
def test_the_compiler_and_the_cards(wish: str | None, found: Machine, compiler: str, cards: tuple[str, ...]) -> None:
    """CUDA is built for the cards of this machine: by the toolkit if it supports them, else by NVIDIA's compiler from
    wheels if the driver can run its code; never with CUDA=0, and with CUDA=1 also without a card."""
    plan = choose(wish, found)
    assert (plan.compiler, plan.cards) == (compiler, cards)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (machine(H100, driver=OLD), "driver is 550.54, where .* needs 580"),
        (machine(V100), "compute capability is below 7.5"),
        (machine(), "no card is seen"),
    ],
)
def test_the_obstacle_is_reported(found: Machine, words: str) -> None:
    """A driver without a build for its card is reported with the cause; with CUDA=1 it is refused with the cause."""
    with pytest.raises(Refused, match=words):
        choose("1", found)
    assert "for the CPU only" in choose(None, found).said


def test_the_command_line_of_wheels() -> None:
    """NVIDIA's compiler is named by the wheels' path, and the user's own arguments come last and so take precedence."""
    arguments = choose(None, machine(H100)).cmake_args("-DGGML_CUDA_FA=OFF", "/site/nvidia/cu13").split()
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real"} < set(arguments)
    assert {"-DCUDAToolkit_ROOT=/site/nvidia/cu13", "-DCMAKE_CUDA_COMPILER=/site/nvidia/cu13/bin/nvcc"} < set(arguments)
    assert arguments[-1] == "-DGGML_CUDA_FA=OFF"


def test_architectures_set_by_the_user() -> None:
    """CMAKE_CUDA_ARCHITECTURES in the user's arguments decides, on a machine without cards too."""
    own = "-DCMAKE_CUDA_ARCHITECTURES=75-real;80-real"
    assert choose("1", Machine(), own).compiler == "wheels"
    assert choose("1", machine(H100), own).cmake_args(own).count("CMAKE_CUDA_ARCHITECTURES") == 1


def test_a_driver_is_found(tmp_path: Path) -> None:
    """The driver is read from the kernel's file, driver and cards from nvidia-smi: both are fakes here."""
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = {"PATH": str(programs)}
    assert look(environment, tmp_path).gpu is None
    version = tmp_path / "proc" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 13.2.0\n"
    )
    assert look(environment, tmp_path).gpu == Gpu((580, 65))
    smi = programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 9.0, 580.65.06\necho 7.5, 580.65.06\n")
    smi.chmod(0o755)
    found = look(environment, tmp_path)
    assert found.gpu == Gpu((580, 65, 6), frozenset({H100, T4}))
    assert choose(None, found).cards == ("75-real", "90-real")
    smi.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    assert look(environment, tmp_path).gpu == Gpu((580, 65))


def test_a_toolkit_and_a_quota_are_found(tmp_path: Path) -> None:
    """nvcc's version is that of its release line; a container's CPU quota limits the cores."""
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.8, V12.8.93\n")
    nvcc.chmod(0o755)
    quota = tmp_path / "sys" / "fs" / "cgroup" / "cpu.max"
    quota.parent.mkdir(parents=True)
    quota.write_text("50000 100000\n")
    found = look({"PATH": str(tmp_path)}, tmp_path)
    assert (found.nvcc, found.cores) == ((12, 8), 0.5)
    quota.write_text("max 100000\n")
    assert look({"PATH": str(tmp_path)}, tmp_path).cores == len(os.sched_getaffinity(0))


def test_the_build_attempts() -> None:
    """The newest instruction set that the processor has is left out first; sets that it lacks are not tried."""
    amx, avx512 = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16", "-mno-avx512f"
    last = Attempt("all that came after AVX2", "", "-DGGML_NATIVE=OFF")
    assert attempts(["avx2", "avx512f", "amx_tile"], "") == (
        Attempt(),
        Attempt("AMX", amx),
        Attempt("AMX and AVX-512", f"{amx} {avx512}"),
        last,
    )
    assert attempts(["avx2", "avx512f"], "") == (Attempt(), Attempt("AVX-512", avx512), last)
    assert attempts(["sse4_2"], "") == (Attempt(),)
    assert attempts(["avx2", "avx512f", "amx_tile"], "-DGGML_NATIVE=OFF") == (Attempt(),)


def name(plan: Plan = CPU, found: Machine = ANY, contents: bytes = b"", **environment: str) -> str:
    return key(plan, found, environment, [contents], "3.13")


def test_a_wheels_name_depends_on_all_build_inputs() -> None:
    """Flags, compilers, card, processor and the files' contents change the name; paths do not."""
    others = [
        name(contents=b"patch"),
        name(CMAKE_ARGS="-DX=1"),
        name(CXXFLAGS="-O1"),
        name(CXX="clang++"),
        name(found=Machine(compiler="c++ 12.2")),
        name(found=Machine(nvcc=(12, 8))),
        name(found=Machine(flags=frozenset({"avx2"}))),
        name(Plan("toolkit", ("90-real",))),
        name(Plan("toolkit", ("80-real",))),
        name(Plan("wheels", ("90-real",))),
    ]
    assert len({name(), *others}) == len(others) + 1
    assert name(HOME="/a", PATH="/b", VIRTUAL_ENV="/c") == name()
    assert name(found=Machine(load=9, cores=2)) == name()


def test_the_time_is_estimated_from_cores_and_load() -> None:
    """Twice the cores take half the time; as many busy processes as cores double it; each card architecture adds to
    it."""
    alone = Plan().seconds(Machine(cores=2))
    assert Plan().seconds(Machine(cores=4)) == alone / 2
    assert Plan().seconds(Machine(cores=2, load=2)) == 2 * alone
    one, two = (Plan("wheels", cards).seconds(Machine(cores=2)) for cards in (("90",), ("90", "75")))
    assert alone < one < two
    image = "-DGGML_CPU_ALL_VARIANTS=ON -DGGML_CPU_VARIANTS="
    few, more = (Plan().seconds(Machine(cores=2), image + names) for names in ("x64;haswell", "x64;haswell;zen4"))
    assert alone < few < more < Plan().seconds(Machine(cores=2), "-DGGML_CPU_ALL_VARIANTS=ON")
