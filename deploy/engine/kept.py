"""Wheels that were built here, in ~/.cache/rill: each in a directory named by what it was made from, beside a proof."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROOF = "proof"  # written when the wheel was seen to live: what it is built without, usually nothing


@dataclass(frozen=True)
class Kept:
    """One wheel's place. directory None: nothing is kept (an image, where it would only take room)."""

    directory: Path | None

    @property
    def wheel(self) -> Path | None:
        return next(iter(self.directory.glob("*.whl")), None) if self.directory else None

    @property
    def proof(self) -> str | None:
        """What the wheel is built without; None if it was never shown to live."""
        try:
            return (self.directory / PROOF).read_text() if self.directory else None
        except FileNotFoundError:
            return None

    def prove(self, without: str) -> None:
        if self.directory:
            (self.directory / PROOF).write_text(without)

    def drop(self) -> None:
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def keep(self, wheel: Path, without: str) -> None:
        """The wheel and its proof at once, or nothing: two installers may be at it, and either may be stopped."""
        if self.directory is None:
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=self.directory.parent))
        shutil.copy(wheel, part)
        (part / PROOF).write_text(without)
        self.drop()
        try:
            part.rename(self.directory)
        except OSError:  # another installer was faster, with the same
            shutil.rmtree(part)
