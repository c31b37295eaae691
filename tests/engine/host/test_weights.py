"""A GGUF's header compared with llama.cpp's own figures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service.engine.host import weights
from service.engine.host.weights import Weights, divided
from service.engine.llama.model import Model


def test_the_bytes_are_llama_cpps(bpe_path: Path, bpe: Model) -> None:
    """All tensors are counted once, by block."""
    read = weights.read(bpe_path)
    assert read is not None
    assert (read.n_bytes, len(read.blocks)) == (bpe.n_bytes, bpe.n_layers)
    assert len(set(read.blocks)) == 1
    assert read.types.keys() == {"q8_0", "f32"}
    assert sum(kind.n_bytes for kind in read.types.values()) == bpe.n_bytes


def test_metadata_reads_as_llama_cpp_writes_it(bpe_path: Path, bpe: Model) -> None:
    """Texts and integers, from which sizes are computed; other values are left out."""
    read = weights.read(bpe_path)
    assert read is not None
    assert read.meta["general.architecture"] == "llama"
    assert all(bpe.meta(key) == value for key, value in read.meta.items())
    assert "tokenizer.ggml.tokens" not in read.meta


def test_an_output_layer_tied_to_the_embedding() -> None:
    """It is copied to the GPU, and stays on the CPU as well."""
    sizes = {"token_embd.weight": 7, "output_norm.weight": 1, "blk.0.a": 2, "blk.1.a": 3, "blk.10.a": 4, "blk.1.b": 5}
    assert divided(sizes, {}) == Weights((2, 8, 4), n_bytes_output=8, n_bytes_input=7)
    assert divided(sizes | {"output.weight": 6}, {}) == Weights((2, 8, 4), n_bytes_output=7, n_bytes_input=7)


def test_a_model_in_parts(tmp_path: Path, bpe_path: Path, write: Callable[..., Path]) -> None:
    """The parts after the first one count; a missing one makes the model unreadable."""
    names = [f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert [p.name for p in weights.parts(tmp_path / names[0])] == names
    assert weights.parts(bpe_path) == [bpe_path]
    shutil.copy(bpe_path, tmp_path / names[0])
    assert weights.read(tmp_path / names[0]) is None
    shutil.copy(write("three", n_layers=3), tmp_path / names[1])
    read = weights.read(tmp_path / names[0])
    assert read is not None and len(read.blocks) == 3


@pytest.mark.parametrize("content", [None, b"", b"dear diary", b"GGUF\x03\x00\x00\x00"])
def test_a_file_that_is_not_a_model(tmp_path: Path, content: bytes | None) -> None:
    """It has no weights, and is no error here: loading reports it."""
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    assert weights.read(path) is None
