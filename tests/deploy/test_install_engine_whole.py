"""deploy/install-engine as make calls it, from beginning to end, with a pip that builds nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.engine.build import LOCK, patches
from deploy.engine.proof import ROOT, prove
from tests.deploy.test_install_engine import HERE, make_wheel


@dataclass
class Checkout:
    """A virtual environment with the fake pip, and the cache and log that the installers of one machine share."""

    home: Path
    wheel: Path
    name: str = "venv"

    def __post_init__(self) -> None:
        venv.create(self.home / self.name, with_pip=False)
        for package in ("pip", "patch_ng"):
            (self.site / package).mkdir()
            (self.site / package / "__main__.py").write_text((HERE / "fake_pip.py").read_text())

    @property
    def site(self) -> Path:
        return next((self.home / self.name / "lib").glob("python*/site-packages"))

    @property
    def stamp(self) -> Path:
        return self.home / self.name / ".engine"

    @property
    def calls(self) -> list[str]:
        log = self.home / "log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def told(self) -> list[list[str]]:
        """CMake's arguments in each build."""
        return [line.split()[1:] for line in self.calls if line.startswith("wheel ")]

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        [version] = re.findall(r"^llama-cpp-python==(\S+)", (LOCK / "engine.txt").read_text(), re.MULTILINE)
        fakes = {"FAKE_LOG": str(self.home / "log"), "FAKE_WHEEL": str(self.wheel), "FAKE_VERSION": version}
        own = {name: value for name, value in os.environ.items() if name not in ("CMAKE_ARGS", "PIP_NO_CACHE_DIR")}
        return subprocess.run(
            [ROOT / "deploy" / "install-engine", self.home / self.name / "bin" / "python", self.stamp],
            env=own | {"CUDA": "0", "XDG_CACHE_HOME": str(self.home / "cache")} | fakes | environment,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path, make_wheel(tmp_path / "made"))


def test_the_second_call_does_not_build(checkout: Checkout) -> None:
    """A build is installed together with its inputs and its patches, and the stamp is touched; the next call neither
    builds nor touches the stamp, so that make does nothing after it."""
    done = checkout.install()
    assert done.returncode == 0, done.stderr
    assert re.search(r"for the CPU: about .* on .* cores", done.stdout)
    assert "10 of 10 files compiled" in done.stdout
    package = checkout.site / "llama_cpp"
    assert prove(package, {}) is None
    assert (package / ".patches").read_text().split() == [path.stem for path in patches()]
    assert (package / ".without").read_text() == ""
    before, calls = checkout.stamp.stat().st_mtime_ns, checkout.calls
    assert len(checkout.told) == 1
    again = checkout.install()
    assert (again.returncode, again.stdout) == (0, "")
    assert checkout.stamp.stat().st_mtime_ns == before
    assert checkout.calls == calls


def test_other_flags_are_another_build(checkout: Checkout) -> None:
    """`make serve` with other flags after `make serve` builds: the installer's key decides, not the stamp."""
    checkout.install()
    first = (checkout.site / "llama_cpp" / ".made-from").read_text()
    assert checkout.install(CMAKE_ARGS="-DGGML_CPU_REPACK=OFF").returncode == 0
    assert (checkout.site / "llama_cpp" / ".made-from").read_text() != first
    assert len(checkout.told) == 2
    assert checkout.told[1][-1] == "-DGGML_CPU_REPACK=OFF"


def test_a_card_is_supported_without_a_toolkit(checkout: Checkout) -> None:
    """A card that nvidia-smi lists is built for automatically, by NVIDIA's compiler from wheels, and the time is
    announced beforehand; a later CUDA=0 builds for the CPU."""
    smi = checkout.home / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 7.5, 580.65.06\n")
    smi.chmod(0o755)
    nvcc = smi.with_name("nvcc")  # shadows this machine's own
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    there = {"PATH": f"{smi.parent}:/usr/bin:/bin"}
    done = checkout.install(CUDA="", **there)
    assert done.returncode == 0, done.stderr
    assert re.search(r"from wheels .*for compute capability 75: about .* minutes", done.stdout)
    cuda = checkout.site / "nvidia" / "cu13"
    assert {"-DCMAKE_CUDA_ARCHITECTURES=75-real", f"-DCMAKE_CUDA_COMPILER={cuda}/bin/nvcc"} < set(checkout.told[0])
    assert (cuda / "lib64").readlink() == Path("lib")
    assert (cuda / "lib" / "libcudart.so").readlink() == Path("libcudart.so.13")
    assert (cuda / "lib" / "stubs" / "libcuda.so").exists()
    assert checkout.install(CUDA="0", **there).returncode == 0
    assert "-DGGML_CUDA=ON" not in checkout.told[1]


def test_two_checkouts_share_a_wheel(checkout: Checkout) -> None:
    """Another virtual environment of the same Python uses the wheel that the first one built."""
    checkout.install()
    other = Checkout(checkout.home, checkout.wheel, "other")
    assert other.install().returncode == 0
    assert len(checkout.told) == 1
    assert prove(other.site / "llama_cpp", {}) is None
    assert other.stamp.exists()


def test_a_broken_build_is_neither_kept_nor_installed(checkout: Checkout) -> None:
    """When every attempt gives a library that crashes, the installer fails with a message, and leaves nothing behind;
    once the compiler is repaired the next call builds."""
    fine, checkout.wheel = checkout.wheel, make_wheel(checkout.home / "broken", PLANTED=8)
    done = checkout.install()
    assert done.returncode != 0
    assert "SIGILL" in done.stderr
    assert "CMAKE_ARGS" in done.stderr
    assert not checkout.stamp.exists()
    assert not (checkout.site / "llama_cpp").exists()
    assert list(checkout.home.glob("cache/rill/**/*.whl")) == []
    checkout.wheel = fine
    assert checkout.install().returncode == 0


def test_a_broken_wheel_in_the_cache_is_replaced(checkout: Checkout) -> None:
    """A cached wheel that was never proven, and crashes, is found, reported and replaced."""
    checkout.install()
    [kept] = checkout.home.glob("cache/rill/*/*.whl")
    (kept.parent / "proof").unlink()
    kept.write_bytes(make_wheel(checkout.home / "broken", PLANTED=8).read_bytes())
    other = Checkout(checkout.home, checkout.wheel, "other")
    done = other.install()
    assert done.returncode == 0, done.stderr
    assert "is broken (it died of SIGILL" in done.stdout
    assert len(checkout.told) == 2
    assert kept.read_bytes() == checkout.wheel.read_bytes()


def test_the_installed_engine_works() -> None:
    """The real proof of the real engine: all types of weights and numbers of rows in it give equal results."""
    assert prove(Path(sysconfig.get_path("platlib"), "llama_cpp"), {}) is None
