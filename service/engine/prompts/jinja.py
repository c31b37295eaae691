"""A chat template in Jinja, compiled and rendered as transformers does (utils/chat_template_utils.py), in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import combinations
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Messages = Sequence[Mapping[str, str]]


class TemplateError(Exception):
    """The chat template can't render these messages; the message is the template's own or Jinja's."""


class Jinja:
    """One template, and the roles for which it takes contents only as lists of parts."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """bos, eos: how the vocabulary spells these tokens. Raises TemplateError for a text that does not compile."""
        self._template = _compile(source)
        self._bos, self._eos = bos, eos
        self._in_parts: frozenset[str] = frozenset()
        self._in_parts = _roles_in_parts(self)

    def __call__(self, messages: Messages, date: datetime, *, opens_answer: bool = True) -> str:
        """The prompt; opens_answer: with the generation prompt. Raises TemplateError."""
        return self.render(messages, date, self._in_parts, opens_answer=opens_answer)

    def render(self, messages: Messages, date: datetime, in_parts: frozenset[str], *, opens_answer: bool = True) -> str:
        """The same with the contents of these roles as lists of parts. Raises TemplateError."""
        try:
            return self._template.render(
                messages=[_in_parts(m) if m.get("role") in in_parts else m for m in messages],
                add_generation_prompt=opens_answer,
                strftime_now=lambda form: date.strftime(form),
                bos_token=self._bos,
                eos_token=self._eos,
                tools=None,
                documents=None,
            )
        except jinja2.TemplateError as e:
            raise TemplateError(f"the chat template rejects these messages: {e}") from e
        except Exception as e:  # a template is a program: it can compute 1 / 0
            raise TemplateError(f"the chat template fails on these messages: {e!r}") from e


def _in_parts(message: Mapping[str, str]) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _roles_in_parts(template: Jinja) -> frozenset[str]:
    """The roles for which content given as a string is lost: some templates (Llama Guard's, SmolVLM's) loop over parts.
    Found by rendering the longest conversation that the template accepts."""
    for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",)):
        messages = [{"role": role, "content": _word(role)} for role in roles]
        kinds = sorted(set(roles))
        for subset in (frozenset(c) for n in range(len(kinds) + 1) for c in combinations(kinds, n)):
            with suppress(TemplateError):
                said = template.render(messages, datetime.now(), subset)
                if all(re.search(rf"(?<!['\"]){_word(role)}", said) for role in kinds):  # quoted, it is a list's repr
                    return subset
    return frozenset()


def _word(role: str) -> str:
    """A word that no template contains."""
    return f"rill{role}rill"


def _compile(source: str) -> jinja2.Template:
    """As transformers compiles chat templates (utils/chat_template_utils.py), in Jinja's immutable sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _tojson
    try:
        return environment.from_string(source)
    except Exception as e:  # Python's compiler has its own limits
        raise TemplateError(f"the chat template does not compile: {e}") from e


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without Jinja's HTML escapes: a prompt is no web page."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """{% generation %} marks the assistant's text for training; here only its contents count."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
