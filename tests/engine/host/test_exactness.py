"""What depends on a stream's company, with the types of weights that people have their models in."""

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
    """The starter with other weights."""
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = file_type, True, 1
    assert lib.llama_model_quantize(str(STARTER).encode(), str(to).encode(), ctypes.byref(params)) == 0
    return to


def test_it_is_tried_out(bpe: Model, write: Callable[..., Path], make_context: MakeContext) -> None:
    """Quantized weights are exact where the KV cache is; what is not quantized is multiplied in another order."""
    floats = Model(write("floats", weights="f32"))
    for model, expected in ((bpe, True), (floats, False)):
        context = make_context(model, kv_type="bf16", flash_attention="on")
        assert is_exact(context, model.n_vocab) == expected


@pytest.mark.parametrize("name", FILE_TYPES)
def test_in_company_as_alone(name: str, tmp_path: Path) -> None:
    """Twelve streams at once give the tokens that each gives alone, whatever type of weights the model's file has."""
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


def test_what_is_not_exact_says_so(tmp_path: Path) -> None:
    """An operator who pays for exactness is told where the weights don't give it."""
    model = quantized(tmp_path / "f16.gguf", 1)
    with Child(model, n_ctx=1024, n_seq=2, kv_type="bf16") as child:
        child.ready()
        assert b"docs/exactness.md" in said(child)
    with Child(model, n_ctx=1024, n_seq=2) as child:
        child.ready()
        assert b"docs/exactness.md" not in said(child)


def said(child: Child) -> bytes:
    """What it wrote to stderr; ends it."""
    child.socket.close()
    child.exit_status()
    assert child.process.stderr is not None
    return child.process.stderr.read()
