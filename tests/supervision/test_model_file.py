from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.supervision import model_file as model
from service.supervision.model_file import ModelError, addressed, check, digest, obtain


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def test_a_path_is_used_unchanged(gguf: Path) -> None:
    """A GGUF file needs no preparation."""
    check(str(gguf))
    assert obtain(str(gguf)) == gguf


def test_the_checksum_is_checked_when_given(gguf: Path) -> None:
    """In upper or lower case; a mismatch is an error with the actual checksum."""
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert obtain(str(gguf), sha256.upper()) == gguf
    with pytest.raises(ModelError, match=sha256):
        obtain(str(gguf), "0" * 64)


def test_a_digest_identifies_a_model(tmp_path: Path) -> None:
    """By every byte; the name does not count."""
    bodies = {
        "a": b"GGUF" + bytes(30_000),
        "copy": b"GGUF" + bytes(30_000),
        "longer": b"GGUF" + bytes(30_001),
        "metadata": b"GGUF\1" + bytes(29_999),
        "middle": b"GGUF" + bytes(15_000) + b"\1" + bytes(14_999),
        "tiny": b"GGUF",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    digests = {name: digest(tmp_path / name, tmp_path / "cache") for name in bodies}
    assert digests["a"] == digests["copy"] == hashlib.sha256(bodies["a"]).hexdigest()
    assert len(set(digests.values())) == len(bodies) - 1


def test_a_custom_template_makes_another_model(tmp_path: Path) -> None:
    """By its name, or by its file's content: replicas with different prompts can't continue each other's streams."""
    (file := tmp_path / "own.jinja").write_text("a")
    first = addressed("digest", str(file))
    file.write_text("b")
    assert addressed("digest", "") == "digest"
    others = [addressed("digest", asked) for asked in ("chatml", "vicuna", str(file), str(tmp_path), "a\0b")]
    assert len({"digest", first, *others}) == 7


def test_a_digest_is_computed_once(gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the file's size and times are the same; a digest that can't be stored is computed again."""
    caplog.set_level(logging.INFO, "service.model")
    cache = tmp_path / "cache"
    first = digest(gguf, cache)
    assert (digest(gguf, cache), len(caplog.records)) == (first, 1)
    gguf.write_bytes(gguf.read_bytes() + b"x")
    assert digest(gguf, cache) != first
    (tmp_path / "file").write_text("")
    caplog.clear()
    assert digest(gguf, tmp_path / "file") == digest(gguf, tmp_path / "file") != first
    assert len(caplog.records) == 2


@pytest.mark.parametrize("name", ["missing.gguf", ".", "text.gguf", "empty.gguf"])
def test_a_path_without_a_model_is_an_error(tmp_path: Path, name: str) -> None:
    """A missing file, a directory, a file of another kind: one line with the path."""
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "empty.gguf").write_text("")
    for what in (check, obtain):
        with pytest.raises(ModelError) as error:
            what(str(tmp_path / name))
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:owner/repo", "hf:owner/repo:", "hf:/repo:f", "hf:a/b/c:f"])
def test_a_hub_name_has_three_parts(name: str) -> None:
    """It is checked at start, before any download."""
    with pytest.raises(ModelError, match="hf:owner/repo:file"):
        check(name)


def test_a_hub_name_needs_no_file_yet() -> None:
    """A file that is yet to be downloaded can't be checked."""
    check("hf:owner/repo:dir/file.gguf")


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a connection to the hub: the name and the reason, not a traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as error:
        obtain("hf:owner/repo:file.gguf")
    assert str(error.value).startswith("hf:owner/repo:file.gguf can't be downloaded") and "\n" not in str(error.value)


def test_the_default_is_the_embedded_starter() -> None:
    """No setting is required."""
    assert model.STARTER.name == "rill-starter-q8_0.gguf" and model.STARTER.parent.name == "starter"


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that one download needs."""

    body = b"GGUF" + bytes(3_000_000)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        self.wfile.write(self.body)

    def _answer(self) -> None:
        if self.path != "/owner/repo/resolve/main/file.gguf":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.send_header("ETag", f'"{hashlib.sha256(self.body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The real huggingface_hub, pointed to a hub on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()


def test_a_model_is_downloaded_once_and_checked(hub: None, caplog: pytest.LogCaptureFixture) -> None:
    """From the hub to a path, with its progress reported and logged; the second time nothing is fetched."""
    caplog.set_level(logging.INFO)
    shares: list[float] = []
    sha256 = hashlib.sha256(Hub.body).hexdigest()
    path = obtain("hf:owner/repo:file.gguf", sha256, shares.append)
    assert path.read_bytes() == Hub.body
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert 100 in [getattr(record, "percent", None) for record in caplog.records]
    shares.clear()
    assert obtain("hf:owner/repo:file.gguf", sha256, shares.append) == path
    assert shares == []
    with pytest.raises(ModelError, match="SHA-256"):
        obtain("hf:owner/repo:file.gguf", "0" * 64)


def test_a_file_that_the_hub_does_not_have(hub: None) -> None:
    """One line that names it."""
    with pytest.raises(ModelError, match=r"hf:owner/repo:other\.gguf can't be downloaded"):
        obtain("hf:owner/repo:other.gguf")
