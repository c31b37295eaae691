"""A chat template in Jinja, compiled and rendered as transformers does (utils/chat_template_utils.py), in a sandbox."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from itertools import combinations
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

Messages = Sequence[Mapping[str, Any]]
ANY_DAY = datetime(2025, 1, 2)  # where the date does not matter


class TemplateError(Exception):
    """The chat template can't render these messages; the message is the template's own or Jinja's."""


class Jinja:
    """One template, and the roles for which it takes contents only as lists of parts."""

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """bos, eos: how the vocabulary spells these tokens. Raises TemplateError for a text that does not compile."""
        self._template = _compile(source)
        self.source, self.bos, self.eos = source, bos, eos
        self._in_parts: frozenset[str] = frozenset()
        self._absent: Mapping[str, None] = dict.fromkeys(("tools", "documents"))  # as transformers passes them
        self._absent = {} if _needs_no_tools(self) else self._absent
        self._in_parts = _roles_in_parts(self)

    def __call__(self, messages: Messages, date: datetime, *, opens_answer: bool = True, **variables: Any) -> str:
        """The prompt; opens_answer: with the generation prompt. variables: of the template's own. Raises
        TemplateError."""
        return self.render(messages, date, self._in_parts, opens_answer=opens_answer, **variables)

    def render(
        self,
        messages: Messages,
        date: datetime,
        in_parts: frozenset[str],
        *,
        opens_answer: bool = True,
        **variables: Any,
    ) -> str:
        """The same with the contents of these roles as lists of parts. Raises TemplateError."""
        given = [_in_parts(m) if m.get("role") in in_parts else m for m in messages]
        return self.fill(given, opens_answer=opens_answer, date=date, **variables)

    def fill(self, messages: Messages, *, opens_answer: bool = True, date: datetime = ANY_DAY, **variables: Any) -> str:
        """The template with these variables of its own, of which it gets copies. Raises TemplateError."""
        # The last two are firefunction's.
        own = {"bos_token": self.bos, "eos_token": self.eos, "functions": "[]", "datetime": date.strftime("%d %B %Y")}
        given = {**own, "messages": list(messages), **self._absent, **variables}
        try:
            return self._template.render(
                **copy.deepcopy(given),
                add_generation_prompt=opens_answer,
                strftime_now=lambda form: date.strftime(form),
            )
        except jinja2.TemplateError as e:
            raise TemplateError(f"the chat template rejects these messages: {e}") from e
        except Exception as e:  # a template is a program: it can compute 1 / 0
            raise TemplateError(f"the chat template fails on these messages: {e!r}") from e

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that it reads and does not set, in a branch at least."""
        return frozenset(meta.find_undeclared_variables(_environment().parse(self.source)))


def _in_parts(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(message["content"], str):  # there is none, or it is in parts already
        return message
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _needs_no_tools(template: Jinja) -> bool:
    """Whether it fails with tools that are none, and works where they are not even defined (Hermes's, Command R+'s)."""
    message = [{"role": "user", "content": "x"}]
    try:
        template.fill(message)
    except TemplateError:
        with suppress(TemplateError):
            template.fill(message, tools=jinja2.Undefined())
            return True
    return False


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
    try:
        return _environment().from_string(source)
    except Exception as e:  # Python's compiler has its own limits
        raise TemplateError(f"the chat template does not compile: {e}") from e


def _environment() -> SandboxedEnvironment:
    """As transformers compiles chat templates (utils/chat_template_utils.py), in Jinja's sandbox. Templates may change
    lists, as Kimi K2's does: they get copies."""
    environment = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _tojson
    environment.filters["from_json"] = json.loads
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without Jinja's HTML escapes: a prompt is no web page. What a filter yields is a list."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_as_list
    )


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, Iterator):
        raise TypeError(f"no JSON for {type(value).__name__}")
    return list(value)


class _Generation(Extension):
    """{% generation %} marks the assistant's text for training; here only its contents count."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
