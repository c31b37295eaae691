"""Which template a model gets: the configured one, its own, a recognised one, or none and why."""

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
    """A key that is empty or has the name of one of llama.cpp's templates means that one."""
    template = choose("", With(bpe, own))
    assert (said(template), template.note) == (IN_CHATML, "")


def test_its_own_template_adds_no_stop_string(bpe: Model) -> None:
    """The model was trained with this template: it generates the end token, and may write its text."""
    assert choose("", With(bpe, tiny.CHATML)).stop == ()


def test_none(bpe: Model) -> None:
    """A model without a template gets none, and the operator is told what to do."""
    assert choose("", With(bpe, None)) == ChatTemplate(None, note=NONE)


@pytest.mark.parametrize("broken", ["{% frobnicate %}", "{% if %}", "{{ 1 | nonsense }}"])
def test_a_template_that_does_not_compile(bpe: Model, broken: str) -> None:
    """If llama.cpp recognises the format, messages get its template of that; otherwise none. The log says which."""
    template = choose("", With(bpe, tiny.CHATML + broken))
    assert said(template) == IN_CHATML
    assert "does not compile" in template.note and "recognises" in template.note
    template = choose("", With(bpe, "{{ messages }}" + broken))
    assert said(template) is None
    assert "does not compile" in template.note and "RILL_CHAT_TEMPLATE" in template.note


def test_by_a_name_of_llama_cpp(spm: Model) -> None:
    """A model without a template gets the configured one, whose end it may spell rather than generate."""
    template = choose("chatml", spm)
    assert (said(template), template.stop) == (IN_CHATML, ("<|im_end|>",))
    template = choose("vicuna", spm)
    assert (said(template), template.stop) == ("USER: Hi\nASSISTANT:", ("</s>",))


def test_by_a_name_of_the_model(write: Callable[..., Path]) -> None:
    """One of the several that the model has."""
    templates = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    model = Model(write("choose", chat_template=templates))
    assert [said(choose(name, model)) for name in ("", "rag")] == ["a", "b"]
    assert [choose(name, model).source for name in ("", "rag")] == ["a", "b"]
    assert choose("rag", model).stop == ()


def test_a_file(bpe: Model, tmp_path: Path) -> None:
    """It has the vocabulary's BOS and EOS, as the model's own template does."""
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    (file := tmp_path / "own").write_text(source)
    template = choose(str(file), bpe)
    assert (said(template), template.stop, template.source) == ("<s>Hi</s>", ("</s>",), source)


@pytest.mark.parametrize("source", ["{% for m in messages %}", "{{", b"\xff\xfe{}"])
def test_an_invalid_template_file(bpe: Model, tmp_path: Path, source: str | bytes) -> None:
    """It is refused in one line that names the setting, before the model is read if it looks like a file."""
    file = tmp_path / "broken.jinja"
    file.write_bytes(source.encode() if isinstance(source, str) else source)
    for refuse in (lambda: choose(str(file), bpe), lambda: check(str(file))):
        with pytest.raises(ConfigurationError, match=r"^RILL_CHAT_TEMPLATE: .*$") as refused:
            refuse()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("asked", ["nonsense", "missing/file.jinja", ".", "a\0b", "x" * 5000])
def test_neither_a_name_nor_a_file(bpe: Model, asked: str) -> None:
    """It is refused by the setting's name."""
    with pytest.raises(ConfigurationError, match="RILL_CHAT_TEMPLATE"):
        choose(asked, bpe)


def test_names_are_left_for_the_model() -> None:
    """Before the model is read its template names are unknown."""
    check("")
    check("tool_use")


def test_nul_does_not_end_a_text(spm: Model) -> None:
    """llama.cpp's own templates are rendered in C, where NUL ends a text."""
    template = choose("chatml", spm)
    assert template.render is not None
    assert "a\0b" in template.render([{"role": "user", "content": "a\0b"}], datetime.now())


def test_what_llama_cpp_cannot_render(spm: Model) -> None:
    """An empty list of messages renders the header of the answer."""
    template = choose("chatml", spm)
    assert template.render is not None
    assert template.render([], datetime.now()) == "<|im_start|>assistant\n"
