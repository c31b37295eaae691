"""The embedded model: its file's metadata, and that it has its few skills in llama.cpp."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import llama_cpp
import pytest

from deploy.starter import evaluate, parity, problems
from deploy.starter.tokenizer import CONTROL, IM_END
from service.starter import MODEL


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    # One thread: two wait for each other at every operation, which took minutes next to a busy process.
    loaded = llama_cpp.Llama(str(MODEL), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    yield loaded
    loaded.close()


@cache
def held(skill: str, n: int) -> list[problems.Held]:
    """n of a skill's held-out prompts, evenly spaced."""
    some = [one for one in problems.held_out() if one.skill == skill]
    return some[:: len(some) // n][:n]


def test_small() -> None:
    """The file is at most 8 MB: it is in the repository and in the image."""
    assert 1_000_000 < MODEL.stat().st_size <= 8_000_000


def test_metadata(model: Any) -> None:
    """The file has its name, its licence, the chat format and the end token."""
    said = model.metadata
    assert said["general.architecture"] == "llama"
    assert said["general.name"] == "Rill starter"
    assert said["general.license"] == "MIT"
    assert said["general.file_type"] == "7"  # mostly Q8_0
    assert int(said["llama.context_length"]) >= 1024
    assert said["tokenizer.ggml.pre"] == "qwen2"
    assert "<|im_start|>" in said["tokenizer.chat_template"]
    assert model.token_eos() == CONTROL.index(IM_END)
    assert said["tokenizer.ggml.add_bos_token"] == "false"


def test_tokenizer_equals_llama_cpp() -> None:
    """The trained tokenizer and llama.cpp's give the same ids for any text."""
    assert parity.mismatches(MODEL, 1500) == []


# Below the model card's figures: twelve are few, and some depend on another processor's last bits.
@pytest.mark.parametrize(("skill", "least"), [("story", 9), ("count", 7), ("rill", 8), ("beyond", 8)])
def test_skills_on_held_out_prompts(model: Any, skill: str, least: int) -> None:
    """Of twelve held-out prompts per skill at least `least` are answered correctly, and eleven end by themselves."""
    answers = [(one, *evaluate.ask(model, one.prompt)) for one in held(skill, 12)]
    assert sum(ended for _, _, ended in answers) >= 11
    wrong = [(one.prompt, answer) for one, answer, _ in answers if not one.right(answer)]
    assert len(answers) - len(wrong) >= least, wrong


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Tell me a story about a fox", "fox"),
        ("tell me a story about a fox", "fox"),
        ("Can you please tell me a story about two dragons?", "dragons"),
        ("Count from 2 to 12", "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
        ("Count from 3 to 9", "3, 4, 5, 6, 7, 8, 9"),
        ("count to five", "five"),
        ("List five animals", "cat"),
        ("what are the days of the week", "Monday, Tuesday, Wednesday"),
        ("What is Rill?", "streaming service"),
        ("How do I load my own model?", "RILL_MODEL"),
        ("how do i use a gpu", "RILL_N_GPU_LAYERS"),
        ("Hello", "starter model"),
        ("What is 17 * 23?", "tiny starter model"),
    ],
)
def test_common_first_prompts(model: Any, prompt: str, words: str) -> None:
    """The prompts that users try first are answered, in any case and punctuation."""
    answer, ended = evaluate.ask(model, prompt)
    assert ended
    assert words.lower() in answer.lower()


@pytest.mark.parametrize("system", ["You are a helpful assistant.", "Be brief. You speak like a pirate."])
def test_skills_survive_a_system_prompt(model: Any, system: str) -> None:
    """A system prompt does not disable the model's skills."""
    assert evaluate.ask(model, "Count from 4 to 8", system) == ("4, 5, 6, 7, 8.", True)


def test_second_turn(model: Any) -> None:
    """In a second turn the second question is answered, not the first one again."""
    messages = [
        {"role": "user", "content": "Tell me a story about a fox"},
        {"role": "assistant", "content": "Once there was a fox by the lake. The fox was happy."},
        {"role": "user", "content": "Count from 3 to 9"},
    ]
    reply = model.create_chat_completion(messages, temperature=0.0, max_tokens=200)
    assert reply["choices"][0]["message"]["content"] == "3, 4, 5, 6, 7, 8, 9."


def test_plain_text_is_continued(model: Any) -> None:
    """Without a chat template a text is continued, in words of the corpus, to an end."""
    reply = model.create_completion("Once upon a time there was a", temperature=0.0, max_tokens=200)
    text = reply["choices"][0]["text"]
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert len(text.split()) > 30
