"""Builds llama-cpp-python, patched, into the virtual environment whose Python runs this, and shows that it lives.

    deploy/install-engine .venv/bin/python [STAMP]      STAMP: a file that is touched when something was installed

CUDA=1 builds the GPU backend, CUDA=0 never does; else it is built where an NVIDIA card is found. CMAKE_ARGS adds flags
of your own. The wheel is kept in ~/.cache/rill under a name made of all that it was built from, so that the next time
takes seconds (not with PIP_NO_CACHE_DIR: an image). What was installed stands in the package: .made-from (that name),
.patches (their names), .without (instruction sets that had to be left out, usually none)."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from deploy.engine import build, proof
from deploy.engine.install import WITHOUT_A_CARD, living_wheel
from deploy.engine.kept import Kept
from deploy.engine.machine import Machine, look
from deploy.engine.plan import Plan, Refused, attempts, choose, key
from deploy.engine.progress import minutes


def main(stamp: Path | None) -> None:
    machine = look(os.environ)
    own = os.environ.get("CMAKE_ARGS", "")
    plan = choose(os.environ.get("CUDA"), machine, own)
    site = Path(sysconfig.get_path("platlib"))
    package = site / "llama_cpp"
    name = key(plan, machine, os.environ, [path.read_bytes() for path in made_of(plan)], sys.version)
    if not is_installed(package, name):
        install(plan, machine, site, name)
    elif stamp is None or stamp.exists():
        return
    if stamp is not None:
        stamp.touch()


def made_of(plan: Plan) -> list[Path]:
    """The files whose contents make another library."""
    names = ["build.txt", "engine.txt", *(["cuda.txt"] if plan.compiler == "wheels" else [])]
    return [*(build.LOCK / name for name in names), *build.patches()]


def is_installed(package: Path, name: str) -> bool:
    made_from = package / ".made-from"
    return made_from.exists() and made_from.read_text().strip() == name


def install(plan: Plan, machine: Machine, site: Path, name: str) -> None:
    """Raises Refused, with what to do, if nothing that lives can be made."""
    [version] = re.findall(r"^llama-cpp-python==(\S+)", (build.LOCK / "engine.txt").read_text(), re.MULTILINE)
    own = os.environ.get("CMAKE_ARGS", "")
    arguments = plan.cmake_args(own, str(build.nvidia_root(site)))
    kept = Kept(None if os.environ.get("PIP_NO_CACHE_DIR") else cache() / name)
    if kept.wheel is None:
        beside = f", beside {machine.load:.0f} busy processes" if machine.load >= 1 else ""
        where = f"{minutes(plan.seconds(machine, own))} on {machine.cores:g} cores{beside}, once."
        say(f"Building llama.cpp (llama-cpp-python {version}) {plan.said or 'for the CPU'}: {where}")
    if plan.compiler == "wheels":
        build.install_nvidia(site)
    with tempfile.TemporaryDirectory() as directory:
        wheel, without = living_wheel(
            kept,
            attempts(machine.flags, arguments),
            build.Workshop(version, arguments, Path(directory)).build,
            lambda made: prove(made, arguments, site),
            say,
            WITHOUT_A_CARD if plan.compiler else "",
        )
        build.pip("install", "-q", "--no-deps", "--force-reinstall", "--no-index", str(wheel))
    package = site / "llama_cpp"
    (package / ".patches").write_text("".join(f"{path.stem}\n" for path in build.patches()))
    (package / ".without").write_text(without)
    (package / ".made-from").write_text(name)


def prove(wheel: Path, cmake_args: str, site: Path) -> proof.Death | None:
    """What came of decoding with the wheel; of an image's many CPU libraries, those that die are deleted."""
    variants = re.search(r"-DGGML_BACKEND_DIR=(\S+)", cmake_args)
    with tempfile.TemporaryDirectory() as directory:
        zipfile.ZipFile(wheel).extractall(directory)
        package = Path(directory, "llama_cpp")
        if variants is None:
            libraries = [str(build.nvidia_root(site) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
            return proof.prove(package, {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))})
        for words in proof.drop_dead_variants(package, Path(variants[1])):
            say(words)
        return None


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "rill")


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except Refused as refused:
        sys.exit(f"{refused}")
