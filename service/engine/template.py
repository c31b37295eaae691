"""Messages -> token ids, as the model's own chat template says, and never a control token that a caller spelled.

The ids are the reference's (render all, then tokenize once with specials) unless a caller's text contains the text of
a control token. Then only those occurrences are taken out: a placeholder stands for them while the template renders,
and they are tokenized as the plain text that they are.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What llama.cpp falls back to for a model without a template of its own.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_END = "<|im_end|>"


class TemplateError(Exception):
    """The chat template can't render these messages; the message is the template's own or Jinja's."""


class Vocabulary(Protocol):
    """What templating needs of a model."""

    @property
    def bos(self) -> int: ...  # -1: none
    @property
    def eos(self) -> int: ...
    @property
    def control_texts(self) -> Collection[str]: ...
    @property
    def chat_template(self) -> str | None: ...
    def text_of(self, token: int) -> str: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


class Prompts:
    """Turns what callers send into token ids for one vocabulary. Safe from any one thread at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises TemplateError when the model's own template is no valid Jinja."""
        self._vocabulary = vocabulary
        source = vocabulary.chat_template
        self.has_template = source is not None
        # A model that never learned ChatML spells its end instead of making the token.
        self.stop = [] if source is not None else [CHATML_END]
        self._template = _compile(source if source is not None else CHATML)
        # Longest first, so that a control text inside a longer one is not what gets found.
        texts = sorted(vocabulary.control_texts, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts))) if texts else None

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The prompt's ids, BOS once where the model wants one. Raises TemplateError."""
        plain: list[str] = []  # control texts that callers spelled, in the order of their placeholders
        # Unguessable, so no caller can write a placeholder; letters only, so that no filter changes it.
        mark = "".join(chr(ord("a") + b % 26) for b in secrets.token_bytes(24))

        def hide(match: re.Match[str]) -> str:
            plain.append(match.group())
            return f"{mark}{_letters(len(plain) - 1)}{mark}"

        if self._control is not None:
            messages = [{k: self._control.sub(hide, v) for k, v in m.items()} for m in messages]
        parts = re.split(f"{mark}([a-j]+){mark}", self._render(messages))
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids += self._tokenize(plain[_number(part)], parse_special=False, first=False)
            elif part or i == 0:
                ids += self._tokenize(part, parse_special=True, first=i == 0)
        return self._without_doubled_bos(ids)

    def raw(self, text: str) -> list[int]:
        """The ids of a bare prompt: plain text, BOS in front where the model wants one."""
        return self._tokenize(text, parse_special=False, first=True)

    def _tokenize(self, text: str, *, parse_special: bool, first: bool) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=first, parse_special=parse_special)

    def _without_doubled_bos(self, ids: list[int]) -> list[int]:
        """Many templates write BOS, and the tokenizer writes it too."""
        bos = self._vocabulary.bos
        return ids[1:] if bos >= 0 and ids[:2] == [bos, bos] else ids

    def _render(self, messages: Sequence[dict[str, str]]) -> str:
        v = self._vocabulary
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=v.text_of(v.bos),
                eos_token=v.text_of(v.eos),
                tools=None,
                documents=None,
            )
        except jinja2.TemplateError as e:
            raise TemplateError(f"the model's chat template refuses these messages: {e}") from e
        except (TypeError, ValueError, KeyError, IndexError, RecursionError, OverflowError) as e:
            raise TemplateError(f"the model's chat template fails on these messages: {e}") from e


def _compile(source: str) -> jinja2.Template:
    """As transformers compiles chat templates (utils/chat_template_utils.py), in Jinja's immutable sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _tojson
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as e:
        raise TemplateError(f"the model's chat template does not compile: {e}") from e


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, **options: Any) -> str:
    """Without Jinja's HTML escapes: a prompt is no web page."""
    return json.dumps(value, ensure_ascii=False, indent=options.get("indent"))


def _letters(number: int) -> str:
    """A number in the digits a .. j, since a template may filter or change real digits less safely than letters."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _number(letters: str) -> int:
    return int("".join(str(ord(letter) - ord("a")) for letter in letters))
