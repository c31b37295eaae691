"""Tiny models of each kind of memory: llama.cpp finds that kind, and their text differs between prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import llama_cpp
import pytest

from service.engine.llama.context import Context
from service.engine.llama.model import Model
from tests.engine import tiny_layers
from tests.engine.conftest import MakeContext

PROMPTS = ["the fox", "Hello world", "the story of the fox " * 10, "a" * 100, "b" + "a" * 99, "a" * 50 + "b" + "a" * 49]


@pytest.fixture(scope="module", params=tiny_layers.ARCHS)
def model(request: pytest.FixtureRequest, write: Callable[..., Path]) -> Model:
    return Model(write(f"memory-{request.param}", arch=request.param, endless=True))


def test_the_kind_of_memory(model: Model) -> None:
    """llama.cpp finds in each file the memory that it was written for."""
    arch = model.meta("general.architecture")
    assert llama_cpp.llama_model_n_swa(model._model) == (tiny_layers.N_WINDOW if arch == "gemma3" else 0)
    assert llama_cpp.llama_model_is_recurrent(model._model) == (arch == "mamba")
    assert llama_cpp.llama_model_is_hybrid(model._model) == (arch == "jamba")
    assert model.n_bytes < 1 << 20


def test_what_a_sequence_keeps(model: Model, make_context: MakeContext) -> None:
    """Attention keeps all tokens, a state none but the newest; a window's old cells are reused though others are free.

    The 60 tokens get the 50 free cells, and then cells of their own sequence.
    """
    context = make_context(model, n_ctx=256)
    for seq_id, n in [(0, 100), (1, 50), (2, 50)]:
        context.decode([(seq_id, 0, range(n), False)])
    context.forget(1)
    context.decode([(2, 50, range(60), False)])
    oldest, newest = llama_cpp.llama_memory_seq_pos_min, llama_cpp.llama_memory_seq_pos_max
    assert newest(context._memory, 2) == 109
    match model.meta("general.architecture"):
        case "llama":
            assert oldest(context._memory, 2) == 0
        case "gemma3":
            assert 0 < oldest(context._memory, 2) <= 110 - tiny_layers.N_WINDOW
        case _:
            assert oldest(context._memory, 2) == 109


def test_text_varies(model: Model, make_context: MakeContext) -> None:
    """Each prompt has its own answer, however far back they differ; it is the same each time, and not of one token."""
    context = make_context(model, kv_type="bf16", flash_attention="on")
    answers = [greedy(model, context, prompt) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)
    assert min(len(set(answer)) for answer in answers) > 1
    assert len({token for answer in answers for token in answer}) > 30
    assert answers == [greedy(model, context, prompt) for prompt in PROMPTS]


def test_endless_text(model: Model, make_context: MakeContext) -> None:
    """No control token is ever the most likely."""
    context = make_context(model)
    assert not model.control_tokens & {token for prompt in PROMPTS for token in greedy(model, context, prompt)}


@pytest.mark.parametrize("arch", tiny_layers.ARCHS)
def test_the_same_file_each_time(write: Callable[..., Path], arch: str) -> None:
    """What is written depends on the seed alone."""
    one, again, other = (
        write(f"{name}-{arch}", arch=arch, seed=seed).read_bytes() for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert one == again != other


def greedy(model: Model, context: Context, prompt: str, n: int = 48) -> list[int]:
    """The n most likely tokens after a prompt, alone in the context."""
    tokens = model.tokenize(prompt, add_special=True, parse_special=False)
    answer: list[int] = []
    while len(answer) < n:
        done = 0 if not answer else len(tokens) + len(answer) - 1
        (index,) = context.decode([(0, done, answer[-1:] or tokens, True)])
        answer.append(int(context.logits(index).argmax()))
    context.forget(0)
    return answer
