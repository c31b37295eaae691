"""Chat templates of 70 models: llama.cpp's collection (models/templates, MIT), which has them from their publishers."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path

from service.engine.formats.choosing import format_of
from service.engine.formats.format import Format
from service.engine.prompts.jinja import Jinja

ARCHIVE = Path(__file__).parent / "templates.tar.xz"


@cache
def sources() -> dict[str, str]:
    """Name -> the template's text."""
    with tarfile.open(ARCHIVE) as archive:
        return {
            Path(member.name).stem: file.read().decode() for member in archive if (file := archive.extractfile(member))
        }


NAMES = tuple(sources())


@cache
def template(name: str) -> Jinja:
    return Jinja(sources()[name], bos="<BOS>", eos="<EOS>")


@cache
def format_for(name: str) -> Format:
    return format_of(template(name), sources()[name])
