"""Tiny models for the engine's tests, each written and loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from service.engine.llama import model as llama
from service.engine.llama.context import Context, ContextParams
from service.engine.llama.model import Model
from service.engine.speculation.planning import MAX_DRAFTS
from tests.engine import tiny

# Slow machines are no failures; the same examples each time, so that a red run can be looked into.
settings.register_profile("engine", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("engine")

# Control tokens in the templates of prompts/test_template.py, in addition to tiny's own.
FAMILIES = [
    *tiny.CONTROLS,
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|user|>",
    "<|system|>",
    "<|assistant|>",
]


class MakeContext(Protocol):
    def __call__(
        self,
        model: Model,
        *,
        n_ctx: int = 1024,
        n_seq: int = 4,
        n_kept: int = 4,
        n_batch: int = 256,
        n_threads: int = 1,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        in_order: bool = False,
    ) -> Context: ...


@pytest.fixture(scope="session", autouse=True)
def llama_log() -> list[tuple[int, str]]:
    """llama.cpp's log so far; without one it would write to stderr."""
    log: list[tuple[int, str]] = []
    llama.start(lambda level, text: log.append((level, text)))
    return log


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny.write into a new file of the test run."""
    folder = tmp_path_factory.mktemp("models")

    def write_one(stem: str, **options: object) -> Path:
        return tiny.write(folder / f"{stem}.gguf", **options)  # type: ignore[arg-type]  # tiny checks them

    return write_one


@pytest.fixture(scope="session")
def bpe_path(write: Callable[..., Path]) -> Path:
    return write("bpe")


@pytest.fixture(scope="session")
def spm_path(write: Callable[..., Path]) -> Path:
    return write("spm", kind="spm", eot=None, controls=["<s>", "</s>"], chat_template=None)


@pytest.fixture(scope="session")
def bpe(bpe_path: Path) -> Model:
    """Byte-level BPE with ChatML; ends with </s> or <|im_end|>."""
    return Model(bpe_path)


@pytest.fixture(scope="session")
def spm(spm_path: Path) -> Model:
    """SentencePiece without a chat template, a space put before every text."""
    return Model(spm_path)


@pytest.fixture
def make_context() -> Iterator[MakeContext]:
    """Contexts with few cells and one thread, closed when the test ends."""
    made: list[Context] = []

    def make(
        model: Model,
        *,
        n_ctx: int = 1024,
        n_seq: int = 4,
        n_kept: int = 4,
        n_batch: int = 256,
        n_threads: int = 1,
        kv_type: str = "f16",
        flash_attention: str = "auto",
        in_order: bool = False,
    ) -> Context:
        params = ContextParams(
            n_ctx=n_ctx,
            n_seq=n_seq,
            n_kept=n_kept,
            n_drafts=MAX_DRAFTS,
            n_batch=n_batch,
            n_threads=n_threads,
            kv_type=kv_type,
            flash_attention=flash_attention,
            in_order=in_order,
        )
        made.append(Context(model, params))
        return made[-1]

    yield make
    for context in made:
        context.close()
