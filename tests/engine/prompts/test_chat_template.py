"""Which template a model gets: what was asked for, its own, one recognised, or none and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from service.engine.host.resources import ConfigurationError
from service.engine.llama.model import Model
from service.engine.prompts.chat_template import NONE, ChatTemplate, check, choose
from tests.engine import tiny
from tests.engine.prompts.test_template import With

TURNS = [{"role": "user", "content": "Hi"}]
IN_CHATML = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def said(template: ChatTemplate) -> str | None:
    return None if template.render is None else template.render(TURNS, datetime.now())


@pytest.mark.parametrize("own", ["", " \n", "chatml", "chatml\n", tiny.CHATML])
def test_llama_cpps_shorthands(bpe: Model, own: str) -> None:
    """A key that holds nothing or the name of one of llama.cpp's templates means that one."""
    template = choose("", With(bpe, own))
    assert (said(template), template.note) == (IN_CHATML, "")


def test_its_own_has_no_more_ends_than_the_model_has(bpe: Model) -> None:
    """It was made with this template: it makes the end token, and may write of one."""
    assert choose("", With(bpe, tiny.CHATML)).stop == ()


def test_none(bpe: Model) -> None:
    """A model without one is given none, and the operator is told what to do."""
    assert choose("", With(bpe, None)) == ChatTemplate(None, note=NONE)


@pytest.mark.parametrize("broken", ["{% frobnicate %}", "{% if %}", "{{ 1 | nonsense }}"])
def test_one_that_does_not_compile(bpe: Model, broken: str) -> None:
    """Where llama.cpp recognises the form, messages get that one; where not, none. The log says which."""
    template = choose("", With(bpe, tiny.CHATML + broken))
    assert said(template) == IN_CHATML
    assert "does not compile" in template.note and "recognises" in template.note
    template = choose("", With(bpe, "{{ messages }}" + broken))
    assert said(template) is None
    assert "does not compile" in template.note and "RILL_CHAT_TEMPLATE" in template.note


def test_by_a_name_of_llama_cpps(spm: Model) -> None:
    """A model that has none gets the one asked for, whose end it may spell rather than make."""
    template = choose("chatml", spm)
    assert (said(template), template.stop) == (IN_CHATML, ("<|im_end|>",))
    template = choose("vicuna", spm)
    assert (said(template), template.stop) == ("USER: Hi\nASSISTANT:", ("</s>",))


def test_by_a_name_of_the_models(write: Callable[..., Path]) -> None:
    """One of several that it brings."""
    templates = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    model = Model(write("choose", chat_template=templates))
    assert [said(choose(name, model)) for name in ("", "rag")] == ["a", "b"]
    assert choose("rag", model).stop == ()


def test_a_file(bpe: Model, tmp_path: Path) -> None:
    """It knows the vocabulary's BOS and EOS, as the model's own does."""
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (file := tmp_path / "own").write_text(source)
    template = choose(str(file), bpe)
    assert (said(template), template.stop) == ("<s>Hi</s>", ("</s>",))


@pytest.mark.parametrize("source", ["{% for m in messages %}", "{{", b"\xff\xfe{}"])
def test_a_file_that_is_none(bpe: Model, tmp_path: Path, source: str | bytes) -> None:
    """It is refused in one line that names the setting, where it looks like a file before the model is read."""
    file = tmp_path / "broken.jinja"
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    for refuse in (lambda: choose(str(file), bpe), lambda: check(str(file))):
        with pytest.raises(ConfigurationError, match=r"^RILL_CHAT_TEMPLATE: .*$") as refused:
            refuse()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("asked", ["nonsense", "missing/file.jinja", ".", "a\0b", "x" * 5000])
def test_what_there_is_not(bpe: Model, asked: str) -> None:
    """Neither a name nor a file: refused by the setting's name."""
    with pytest.raises(ConfigurationError, match="RILL_CHAT_TEMPLATE"):
        choose(asked, bpe)


def test_names_are_left_for_the_model() -> None:
    """Before it is read nobody knows which it brings."""
    check("")
    check("tool_use")


def test_nul_is_text_like_any_other(spm: Model) -> None:
    """llama.cpp's own templates are C's, where NUL ends a text."""
    template = choose("chatml", spm)
    assert template.render is not None
    assert "a\0b" in template.render([{"role": "user", "content": "a\0b"}], datetime.now())


def test_what_llama_cpp_cannot_render(spm: Model) -> None:
    """No messages at all are as good as any: the header of the answer."""
    template = choose("chatml", spm)
    assert template.render is not None
    assert template.render([], datetime.now()) == "<|im_start|>assistant\n"
