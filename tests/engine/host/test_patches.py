"""What the engine reports about the patches it was built with."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

import llama_cpp

from service.engine.host.patches import LACK, applied, lacks

PATCHES = Path(__file__).parents[3] / "deploy" / "patches"


def test_our_build_lacks_no_patch() -> None:
    """The engine that the installer builds has every patch whose absence would be reported."""
    assert lacks(applied(Path(llama_cpp.__file__).parent)) == []


def test_our_build_requires_no_diskcache() -> None:
    """diskcache is neither required nor installed."""
    lines = [line for line in metadata.requires("llama-cpp-python") or () if ";" not in line]
    assert {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in lines} == {"jinja2", "numpy", "typing-extensions"}
    assert importlib.util.find_spec("diskcache") is None


def test_a_foreign_build_lacks_them_all(tmp_path: Path) -> None:
    """Without the installer's list every patch counts as missing, and each is reported with its consequence."""
    told = lacks(applied(tmp_path))
    assert len(told) == len(LACK)
    assert "0007-grammar-bounded-work: a request's grammar can delay every stream" in told


def test_a_missing_patch_is_named(tmp_path: Path) -> None:
    """Only that one is named."""
    (tmp_path / ".patches").write_text("\n".join(name for name in LACK if not name.startswith("0004")))
    assert [line.split(":")[0] for line in lacks(applied(tmp_path))] == ["0004-flash-attention-masked-cells"]


def test_each_is_a_patch_of_this_repository() -> None:
    """A patch that is renamed must be renamed here, too."""
    assert set(LACK) <= {path.stem for path in PATCHES.glob("*.patch")}
