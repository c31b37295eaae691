"""Which chat template a model is used with: the operator's, the model's own, or one that llama.cpp has by name.

None at all is a valid choice: a base model prompted in a format that it was not trained on answers with garbage.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from service.engine.host.resources import ConfigurationError
from service.engine.llama import model as llama
from service.engine.prompts.jinja import Jinja, Messages, TemplateError

NONE = "The model has no chat template; set RILL_CHAT_TEMPLATE, or use /v1/completions, which needs none."
LONGEST_END = 32  # characters of an end-of-turn marker: anything longer is other text of the template


class NoTemplate(Exception):
    """There is no template to render messages with; the message says why, and what to do."""


class Render(Protocol):
    """Messages -> the prompt; opens_answer: add the generation prompt. Raises TemplateError."""

    def __call__(self, messages: Messages, date: datetime, *, opens_answer: bool = True) -> str: ...


class Vocabulary(Protocol):
    """What this needs of a model."""

    @property
    def bos(self) -> int: ...  # -1: none
    @property
    def eos(self) -> int: ...
    def chat_template(self, name: str | None = None) -> str | None: ...
    def text_of(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How messages become a prompt."""

    render: Render | None  # None: impossible
    stop: tuple[str, ...] = ()  # stop strings in addition to the model's end tokens
    note: str = ""  # what the operator should know of the choice
    source: str = ""  # its text, or the name of one of llama.cpp's


def choose(asked: str, vocabulary: Vocabulary) -> ChatTemplate:
    """The template for a model. asked: one of the model's own by name, one of llama.cpp's by name, or a file; "": the
    model's default. Raises ConfigurationError for one that can't be had."""
    if asked:
        return _asked(asked, vocabulary)
    source = vocabulary.chat_template()
    if source is None:
        return ChatTemplate(None, note=NONE)
    name = source.strip() or "chatml"  # as llama.cpp treats an empty key
    if name in llama.builtin_templates():
        return _builtin(name)
    try:
        return ChatTemplate(_jinja(source, vocabulary), source=source)
    except TemplateError as e:
        return _recognised(source, str(e))


def check(asked: str) -> None:
    """Raises ConfigurationError for a file that can't be used, before a model is read for it."""
    if "/" in asked or asked.endswith((".jinja", ".jinja2", ".j2")):
        with _blamed():
            Jinja(_read(asked), bos="", eos="")


def _asked(asked: str, vocabulary: Vocabulary) -> ChatTemplate:
    own = vocabulary.chat_template(asked)
    if not own and asked in llama.builtin_templates():
        return _builtin(asked)
    with _blamed():
        source = own or _read(asked)
        render = _jinja(source, vocabulary)
    return ChatTemplate(render, stop=() if own else _ends(render), source=source)


def _jinja(source: str, vocabulary: Vocabulary) -> Jinja:
    v = vocabulary
    return Jinja(source, bos=v.text_of(v.bos), eos=v.text_of(v.eos))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        raise TemplateError(f"no template has this name, nor can a file of this name be read: {reason}") from e


@contextmanager
def _blamed() -> Iterator[None]:
    """Report errors of a configured template as ConfigurationError."""
    try:
        yield
    except TemplateError as e:
        raise ConfigurationError(f"RILL_CHAT_TEMPLATE: {e}") from e


def _recognised(source: str, error: str) -> ChatTemplate:
    """For a template that does not compile: llama.cpp recognises its format by the control tokens in it."""
    if llama.apply_builtin(source, [{"role": "user", "content": "x"}], opens_answer=True) is None:
        return ChatTemplate(None, note=f"{NONE} Its own can't be used: {error}.")
    found = _builtin(source)
    note = f"{error}; messages are formatted with the template that llama.cpp recognises in it."
    return ChatTemplate(found.render, found.stop, note, source)


def _builtin(template: str) -> ChatTemplate:
    """One of llama.cpp's, by its name or by a text it recognises."""

    def render(messages: Messages, date: datetime, *, opens_answer: bool = True) -> str:
        nul = secrets.token_hex(16)  # NUL would end a C string
        whole = [{**m, "content": m["content"].replace("\0", nul)} for m in messages]
        said = llama.apply_builtin(template, whole, opens_answer=opens_answer)
        if said is None:
            raise TemplateError("the chat template can't render these messages")
        return said.replace(nul, "\0")

    return ChatTemplate(render, stop=_ends(render), source=template)


def _ends(render: Render) -> tuple[str, ...]:
    """The end-of-turn text that a model may write instead of ending, under a template it was not trained with."""
    answer = secrets.token_hex(16)
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    try:
        end = render(turns, datetime.now(), opens_answer=False).rpartition(answer)[2].strip()
    except TemplateError:
        return ()
    return (end,) if 0 < len(end) <= LONGEST_END else ()
