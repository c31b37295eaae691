"""RILL_MODEL to a path: a file, the embedded starter, or `hf:owner/repo:file` fetched once and kept in HF's cache."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.starter import MODEL

log = logging.getLogger("service.model")

STARTER = MODEL
GGUF_MAGIC = b"GGUF"


class ModelError(Exception):
    """The model is not available; the message is a one-line reason."""


def check(model: str) -> None:
    """Check RILL_MODEL as far as possible without a download. Raises ModelError."""
    if model.startswith("hf:"):
        _hf_parts(model)
    else:
        _check_file(Path(model) if model else STARTER)


def obtain(model: str, sha256: str = "", progress: Callable[[float], None] = lambda share: None) -> Path:
    """The model's path, after downloading and checking what has to be. Blocks: call it in a thread.

    `progress` is called with 0..1 while it downloads, from that thread. Raises ModelError.
    """
    path = _download(model, progress) if model.startswith("hf:") else Path(model) if model else STARTER
    _check_file(path)
    if sha256 and (found := _sha256(path)) != sha256.lower():
        raise ModelError(f"{path} has the SHA-256 {found}, not the one in RILL_MODEL_SHA256")
    return path


def digest(path: Path, cache: Path | None = None) -> str:
    """The file's SHA-256, which identifies the model, cached while the file's size and times are the same: hashing
    takes a second a GiB. Blocks.

    cache: a folder; None: `rill` in the user's cache. Without one it is computed each time.
    """
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rill" / "digests"
    status = path.stat()
    named = f"{path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    kept = cache / hashlib.sha256(named.encode()).hexdigest()
    with suppress(OSError):
        if len(found := kept.read_text()) == hashlib.sha256().digest_size * 2:
            return found
    log.info("computing the model file's SHA-256, which identifies it", extra={"bytes": status.st_size})
    found = _sha256(path)
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        whole = kept.with_suffix(f".{os.getpid()}")
        whole.write_text(found)
        whole.rename(kept)
    return found


def addressed(digest: str, chat_template: str) -> str:
    """The identity of a model that may resume another replica's streams: with another chat template it reads another
    prompt. chat_template: RILL_CHAT_TEMPLATE."""
    if not chat_template:
        return digest
    form = chat_template.encode()
    with suppress(OSError, ValueError):  # a name, or what the engine will refuse
        form = Path(chat_template).read_bytes()
    return hashlib.sha256(digest.encode() + form).hexdigest()


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as e:
        raise ModelError(f"the model {path} can't be read: {e.strerror}") from None
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file")


def _hf_parts(model: str) -> tuple[str, str]:
    """(repository, file) of `hf:owner/repo:file`."""
    repo, _, file = model.removeprefix("hf:").partition(":")
    if repo.count("/") != 1 or not all(repo.split("/")) or not file:
        raise ModelError(f"RILL_MODEL is {model!r}; an hf: model has the form hf:owner/repo:file.gguf")
    return repo, file


def _download(model: str, progress: Callable[[float], None]) -> Path:
    from huggingface_hub import hf_hub_download  # takes half a second to import, and few need it
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # not in its __all__

    class Progress(tqdm):
        """Logs every tenth instead of drawing a bar."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.done, self.whole, self.said = 0.0, float(kwargs.get("total") or 0), -1  # type: ignore[arg-type]

        def update(self, n: float | None = 1) -> None:
            self.done += n or 0
            if self.whole:
                progress(share := min(1.0, self.done / self.whole))
                if (tenth := int(share * 10)) > self.said:
                    self.said = tenth
                    log.info("downloading", extra={"model": model, "percent": tenth * 10})

    repo, file = _hf_parts(model)
    log.info("downloading", extra={"model": model, "percent": 0})
    try:
        return Path(hf_hub_download(repo, file, tqdm_class=Progress))
    except (HfHubHTTPError, OSError, ValueError) as e:
        raise ModelError(f"{model} can't be downloaded: {type(e).__name__}: {str(e).splitlines()[0]}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
