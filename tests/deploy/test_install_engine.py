"""The engine's installer with fake wheels that build quickly: a build that crashes is never cached or installed."""

from __future__ import annotations

import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.engine.install import living_wheel
from deploy.engine.kept import Kept
from deploy.engine.plan import Attempt, Refused
from deploy.engine.proof import Death, drop_dead_variants, prove

HERE = Path(__file__).parent
WAYS = (Attempt(), Attempt("AMX", "-mno-amx-tile"), Attempt("AVX2", "", "-DGGML_NATIVE=OFF"))
SOURCE = """
#include <string.h>
static int rows, dies;
void * ggml_backend_load(const char * path) { // one of an image's CPU libraries
    dies = strstr(path, "dies") != 0;
    return &rows;
}
int decode(int n) {
    rows = n;
    if (n >= PLANTED || dies) __builtin_trap(); // an illegal instruction, which kills with SIGILL
    return n == REFUSED;
}
float logit(int i) { return i + (rows == WRONG ? 5 : 0); }
"""
FINE = {"PLANTED": 1000, "REFUSED": -1, "WRONG": -1}


def make_wheel(to: Path, **faults: int) -> Path:
    """A wheel of llama_cpp whose library crashes, fails or miscounts for a number of rows, or works."""
    to.mkdir(parents=True, exist_ok=True)
    library, wheel = to / "libllama.so", to / "llama_cpp_python-1-py3-none-any.whl"
    defined = [f"-D{name}={value}" for name, value in {**FINE, **faults}.items()]
    command = ["c++", "-shared", "-fPIC", *defined, "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    with zipfile.ZipFile(wheel, "w") as made:
        made.write(HERE / "fake_llama_cpp.py", "llama_cpp/llama_cpp.py")
        made.write(library, "llama_cpp/lib/libllama.so")
    return wheel


def unpack(wheel: Path) -> Path:
    unpacked = wheel.with_suffix(".unpacked")
    zipfile.ZipFile(wheel).extractall(unpacked)
    return unpacked / "llama_cpp"


def prove_wheel(wheel: Path) -> Death | None:
    return prove(unpack(wheel), {})


class Builds:
    """Builds a prepared wheel for each attempt, and records the attempts."""

    def __init__(self, directory: Path, *faults: dict[str, int]) -> None:
        self.directory, self.faults = directory, list(faults)
        self.asked: list[str] = []
        self.said: list[str] = []

    def __call__(self, way: Attempt) -> Path:
        self.asked.append(way.without)
        return make_wheel(self.directory / str(len(self.asked)), **self.faults.pop(0))

    def living(self, kept: Kept) -> tuple[Path, str]:
        return living_wheel(kept, WAYS, self, prove_wheel, self.said.append)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "cache" / "key")


def test_a_working_build_is_cached(tmp_path: Path, kept: Kept) -> None:
    """A build that works is cached with its proof; the next installer uses it, and neither builds nor proves."""
    builds = Builds(tmp_path, {})
    builds.living(kept)
    assert builds.asked == [""]

    def never(_: object) -> Any:
        raise AssertionError("it was built or proven again, or something was printed")

    assert kept.wheel is not None
    assert living_wheel(kept, WAYS, never, never, never) == (kept.wheel, "")


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_a_crashing_build_is_repeated_without_the_faulty_instructions(tmp_path: Path, kept: Kept, rows: int) -> None:
    """An illegal instruction, for one row, eight or a prompt, costs its instruction set, not the engine."""
    builds = Builds(tmp_path, {"PLANTED": rows}, {})
    wheel, without = builds.living(kept)
    assert (builds.asked, without) == (["", "AMX"], "AMX")
    assert prove_wheel(wheel) is None
    assert kept.proof == "AMX"
    assert "SIGILL" in builds.said[0]
    assert "again without AMX" in builds.said[0]


def test_a_build_that_crashes_in_every_attempt_is_refused(tmp_path: Path, kept: Kept) -> None:
    """When no attempt works, the installer reports the cause and what to do, and caches nothing."""
    builds = Builds(tmp_path, *[{"PLANTED": 8}] * 3)
    with pytest.raises(Refused, match=r"(?s)without AVX2 and does not live: it died of SIGILL.*Nothing.*CMAKE_ARGS"):
        builds.living(kept)
    assert builds.asked == ["", "AMX", "AVX2"]
    assert kept.wheel is None
    assert kept.directory is not None
    assert not kept.directory.exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [({"REFUSED": 8}, "a decode of 8 rows failed"), ({"WRONG": 64}, "gives other logits in another number of rows")],
)
def test_a_build_that_other_instructions_do_not_fix_is_refused(
    tmp_path: Path, kept: Kept, fault: dict[str, int], words: str
) -> None:
    """A build that fails or miscounts without crashing is refused without building it again."""
    builds = Builds(tmp_path, fault)
    with pytest.raises(Refused, match=words):
        builds.living(kept)
    assert builds.asked == [""]
    assert kept.wheel is None


@pytest.mark.parametrize("fault", [{}, {"PLANTED": 8}])
def test_a_cached_wheel_without_a_proof_is_proven(tmp_path: Path, kept: Kept, fault: dict[str, int]) -> None:
    """A wheel in the cache that was never proven is proven: if it works it gets its proof, otherwise it is replaced."""
    assert kept.directory is not None
    make_wheel(kept.directory, **fault)
    builds = Builds(tmp_path, {})
    wheel, _ = builds.living(kept)
    assert builds.asked == ([""] if fault else [])
    assert bool(builds.said) is bool(fault)
    assert prove_wheel(wheel) is None
    assert kept.wheel is not None
    assert prove_wheel(kept.wheel) is None
    assert kept.proof == ""


def make_variants(directory: Path, **scores: int) -> None:
    for name, score in scores.items():
        source = f"int ggml_backend_score(void) {{ return {score}; }}"
        command = ["c++", "-shared", "-fPIC", "-x", "c", "-", "-o", str(directory / f"libggml-cpu-{name}.so")]
        subprocess.run(command, input=source, text=True, check=True)


def test_an_image_leaves_out_crashing_cpu_libraries(tmp_path: Path) -> None:
    """An image's CPU libraries that crash on this processor are deleted and named; those for other processors stay."""
    package = unpack(make_wheel(tmp_path / "made"))
    make_variants(tmp_path, x64=1, dies=3, foreign=0)
    [said] = drop_dead_variants(package, tmp_path)
    assert said.startswith("libggml-cpu-dies.so is left out: it died of SIGILL")
    assert {path.name for path in tmp_path.glob("*.so")} == {"libggml-cpu-x64.so", "libggml-cpu-foreign.so"}


def test_an_image_without_a_working_library_is_refused(tmp_path: Path) -> None:
    """An image whose every library crashes here, or is for other processors, is not built."""
    package = unpack(make_wheel(tmp_path / "made"))
    make_variants(tmp_path, dies=1, foreign=0)
    with pytest.raises(Refused, match="SIGILL"):
        drop_dead_variants(package, tmp_path)
    with pytest.raises(Refused, match="for this processor"):
        drop_dead_variants(package, tmp_path)


def test_a_crash_is_reported_by_name() -> None:
    """The message has the signal's name and meaning, and the type of the weights."""
    assert str(Death(signal.SIGILL, "Q4_0")) == "it died of SIGILL (Illegal instruction) with Q4_0 weights"
    assert not Death(signal.SIGKILL).is_codes_fault  # out of memory: another instruction set does not help
    assert not Death(None, words="no").is_codes_fault
