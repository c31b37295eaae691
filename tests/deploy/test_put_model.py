"""deploy/put-model: a model is in the volume completely, or not at all. On a real volume:
tests/compose/test_stack.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.deploy.docker import FakeDocker

MODEL = b"GGUF" + bytes(range(256)) * 4096


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "own-q8_0.gguf"
    path.write_bytes(MODEL)
    return path


@pytest.mark.parametrize("has_v2", [True, False])
def test_a_model_is_copied(docker: FakeDocker, model: Path, has_v2: bool) -> None:
    """The copy is identical; the settings that serve it are printed, with its hash."""
    docker.state = docker.state | {"has_v2": has_v2}
    done = docker.run("put-model", str(model))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (docker.home / "models").iterdir()] == ["own-q8_0.gguf"]
    assert (docker.home / "models" / "own-q8_0.gguf").read_bytes() == MODEL
    assert f"RILL_MODEL=/models/own-q8_0.gguf RILL_MODEL_SHA256={hashlib.sha256(MODEL).hexdigest()} " in done.stdout
    assert docker.state["said"] == ["run --rm --no-deps -T --entrypoint sh"]


def test_an_incomplete_copy_is_discarded(docker: FakeDocker, model: Path) -> None:
    """A full disk leaves the previous file in place, and no part of the new one."""
    models = docker.home / "models"
    (models / model.name).write_bytes(b"GGUF before")
    limited = docker.home / "docker"
    limited.write_text(limited.read_text().replace("exec ", "ulimit -f 100\nexec "))
    done = docker.run("put-model", str(model))
    assert done.returncode != 0
    assert [path.name for path in models.iterdir()] == [model.name]
    assert (models / model.name).read_bytes() == b"GGUF before"


@pytest.mark.parametrize("name", ["missing.gguf", "two words.gguf", ".hidden.gguf", "text.gguf", ""])
def test_a_file_that_is_not_a_model_is_refused(docker: FakeDocker, name: str) -> None:
    """It is refused before anything is started, with one line and exit status 2."""
    if name and name != "missing.gguf":
        (docker.home / name).write_bytes(b"text" if name == "text.gguf" else MODEL)
    done = docker.run("put-model", *([str(docker.home / name)] if name else []))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert docker.state["said"] == []
