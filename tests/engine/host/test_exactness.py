"""Whether a stream's tokens depend on the rest of the batch, with the common types of weights."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import llama_cpp as lib
import pytest

from service.engine.cli import STARTER
from service.engine.host.exactness import is_exact
from service.engine.llama.model import Model
from service.protocol.sampling import Sampling
from tests.engine.child import Child
from tests.engine.conftest import MakeContext
from tests.engine.test_serve import follow, submit

# llama.cpp's llama_ftype; all have an output of Q6_K
FILE_TYPES = {"Q4_0": 2, "IQ4_XS": 30, "Q4_K_M": 15, "Q5_K_M": 17}


def quantized(to: Path, file_type: int) -> Path:
    """The starter requantized to another type."""
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = file_type, True, 1
    assert lib.llama_model_quantize(str(STARTER).encode(), str(to).encode(), ctypes.byref(params)) == 0
    return to


def test_exactness_is_measured(bpe: Model, write: Callable[..., Path], make_context: MakeContext) -> None:
    """Quantized weights are exact where the KV cache is; unquantized ones are multiplied in another order."""
    floats = Model(write("floats", weights="f32"))
    for model, expected in ((bpe, True), (floats, False)):
        context = make_context(model, kv_type="bf16", flash_attention="on")
        assert is_exact(context, model.n_vocab) == expected


@pytest.mark.parametrize("name", FILE_TYPES)
def test_in_a_batch_as_alone(name: str, tmp_path: Path) -> None:
    """Twelve concurrent streams give the tokens that each gives alone, for each type of weights."""
    model = quantized(tmp_path / "model.gguf", FILE_TYPES[name])
    texts = [f"The {animal} and the {i}" for i, animal in enumerate(["fox", "owl", "cat", "hen"] * 3)]
    submits = [
        submit(str(i), text=text, max_tokens=16, ignore_eos=True, sampling=Sampling(seed=i, temperature=i % 2 * 0.8))
        for i, text in enumerate(texts)
    ]
    with Child(model, n_ctx=4096, n_seq=12, kv_type="bf16") as child:
        child.ready()
        alone: dict[str, list[int]] = {}
        for one in submits:
            child.send(one)
            alone[one.id] = follow(child, one.id)[one.id][0]
        child.send(*submits)
        together = follow(child, *alone)
        assert b"docs/exactness.md" not in said(child)
    assert {id: tokens for id, (tokens, *_) in together.items()} == alone


def test_inexact_weights_are_reported(tmp_path: Path) -> None:
    """An operator who sets an exact KV type is told if the weights are not exact."""
    model = quantized(tmp_path / "f16.gguf", 1)
    with Child(model, n_ctx=1024, n_seq=2, kv_type="bf16") as child:
        child.ready()
        assert b"docs/exactness.md" in said(child)
    with Child(model, n_ctx=1024, n_seq=2) as child:
        child.ready()
        assert b"docs/exactness.md" not in said(child)


def said(child: Child) -> bytes:
    """The engine's stderr; ends the engine."""
    child.socket.close()
    child.exit_status()
    assert child.process.stderr is not None
    return child.process.stderr.read()
