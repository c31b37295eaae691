from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service import model
from service.model import ModelError, check, obtain


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def test_a_path_is_taken_as_it_is(gguf: Path) -> None:
    """A GGUF file needs nothing done."""
    check(str(gguf))
    assert obtain(str(gguf)) == gguf


def test_the_checksum_is_checked_when_given(gguf: Path) -> None:
    """In either case of its digits; another one is an error that tells what was found."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert obtain(str(gguf), digest.upper()) == gguf
    with pytest.raises(ModelError, match=digest):
        obtain(str(gguf), "0" * 64)


@pytest.mark.parametrize("name", ["missing.gguf", ".", "text.gguf", "empty.gguf"])
def test_what_is_no_model_is_said_so(tmp_path: Path, name: str) -> None:
    """A missing file, a directory, a file of another kind: one line with the path."""
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "empty.gguf").write_text("")
    for what in (check, obtain):
        with pytest.raises(ModelError) as error:
            what(str(tmp_path / name))
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:owner/repo", "hf:owner/repo:", "hf:/repo:f", "hf:a/b/c:f"])
def test_a_hub_name_has_three_parts(name: str) -> None:
    """Told at start, before any download."""
    with pytest.raises(ModelError, match="hf:owner/repo:file"):
        check(name)


def test_a_hub_name_needs_no_file_yet() -> None:
    """What is to be downloaded can't be checked before."""
    check("hf:owner/repo:dir/file.gguf")


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No way to the hub: the name and the reason, not a traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as error:
        obtain("hf:owner/repo:file.gguf")
    assert str(error.value).startswith("hf:owner/repo:file.gguf can't be downloaded") and "\n" not in str(error.value)


def test_the_default_is_the_embedded_starter() -> None:
    """Nothing has to be set."""
    assert model.STARTER.name == "rill-starter-q8_0.gguf" and model.STARTER.parent.name == "starter"
