"""Messages -> token ids, by the model's own chat template, and never a control token that a client spelled.

The ids are the reference's (render all, then tokenize once with specials) unless a client's text contains the text of
a control token, or would make one together with adjacent text. Then only those occurrences are taken out: a
placeholder stands for them while the template renders, and they are tokenized as plain text.
"""

from __future__ import annotations

import bisect
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Protocol

from service.engine.formats.choosing import format_of
from service.engine.formats.format import HERMES, Format
from service.engine.formats.history import for_template
from service.engine.formats.probe import tool_values
from service.engine.formats.switching import switched
from service.engine.prompts.chat_template import NoTemplate, choose
from service.engine.prompts.chat_template import Vocabulary as Spelling
from service.engine.prompts.conversation import WORDS, Conversation, conversation
from service.engine.prompts.jinja import Jinja
from service.protocol.prompting import USUAL_PROMPTING, Prompting
from service.protocol.tooling import NO_TOOLING, Tooling


class NoSwitch(Exception):
    """The chat template can't switch reasoning as asked."""


class Vocabulary(Spelling, Protocol):
    """What templating needs of a model."""

    @property
    def control_texts(self) -> Collection[str]: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...


class Prompts:
    """Turns clients' prompts into token ids for one vocabulary. Safe from any one thread at a time."""

    def __init__(self, vocabulary: Vocabulary, asked: str = "") -> None:
        """asked: RILL_CHAT_TEMPLATE. Raises ConfigurationError when it can't be had."""
        self._vocabulary = vocabulary
        self.template = choose(asked, vocabulary)
        self._controls = sorted(vocabulary.control_texts)
        self._backwards = sorted(text[::-1] for text in self._controls)
        self._control = re.compile(_any_of(self._controls)) if self._controls else None
        # SentencePiece puts a space before any text; NUL, which merges with nothing, can be put in front of it.
        lead = vocabulary.tokenize("\0", add_special=False, parse_special=False)
        self._lead = lead if len(lead) > 1 else []

    @cached_property
    def format(self) -> Format:
        """How the model writes reasoning and calls."""
        render = self.template.render
        return format_of(render, render.source) if isinstance(render, Jinja) else HERMES

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        asked_at: float | None = None,
        prompting: Prompting = USUAL_PROMPTING,
        tooling: Tooling = NO_TOOLING,
    ) -> list[int]:
        """The prompt's ids, BOS once where the model wants one. Raises TemplateError, NoTemplate, NoSwitch.

        asked_at: seconds since the epoch, for templates that use the date; None: now.
        """
        said, adds = conversation(messages, tooling), prompting.add_special_tokens
        if self._control is None:
            return self._tokenize(self._render(said, asked_at, prompting), adds)
        hidden = _Hidden()
        said = said.mapped(partial(self._control.sub, hidden))
        rendered = self._render(said, asked_at, prompting)
        cautious = said.mapped(partial(self._hide_edges, hidden=hidden), but=WORDS)
        if cautious != said:
            # The start or end of a text may make a control token with adjacent text.
            alone = self._render(cautious, asked_at, prompting)
            if self._control.findall(alone) != self._control.findall(rendered):
                rendered = alone
        return self._ids(rendered, hidden, adds)

    def raw(self, text: str, *, adds: bool = True) -> list[int]:
        """The ids of a bare prompt: plain text; adds: BOS in front where the model wants one."""
        return self._vocabulary.tokenize(text, add_special=adds, parse_special=False)

    def tokens(self, text: str) -> list[int]:
        """The ids of a text alone, as llama-server takes those that are biased."""
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def word(self, text: str) -> list[list[int]]:
        """The ids of a text within others: as it continues one, and after a space."""
        core = text.lstrip()
        texts = (core, " " + core) if core else (text,)
        return [self._continued(one, parse_special=False) for one in texts]

    def _ids(self, rendered: str, hidden: _Hidden, adds: bool | None) -> list[int]:
        """One tokenization with specials, or one for each part between placeholders."""
        parts = hidden.split(rendered)
        ids = self._tokenize(parts[0], adds)
        # As the reference: text at the start or after a control token is tokenized afresh, other text continues.
        goes_on = parts[0] != "" and not parts[0].endswith(tuple(self._controls))
        for plain, part in zip(parts[1::2], parts[2::2], strict=True):
            ids += self._plain(hidden.texts[_number(plain)], goes_on)
            if part:
                ids += self._continued(part, parse_special=True)
            goes_on = not part.endswith(tuple(self._controls))
        return ids

    def _tokenize(self, text: str, adds: bool | None) -> list[int]:
        if adds is None:  # a template that writes BOS itself needs none from the tokenizer
            bos = self._vocabulary.text_of(self._vocabulary.bos)
            adds = bos == "" or not text.startswith(bos)
        return self._vocabulary.tokenize(text, add_special=adds, parse_special=True)

    def _plain(self, text: str, goes_on: bool) -> list[int]:
        if goes_on:
            return self._continued(text, parse_special=False)
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def _continued(self, text: str, *, parse_special: bool) -> list[int]:
        """The ids of a text that follows another: no space is put between."""
        if not self._lead:
            return self._vocabulary.tokenize(text, add_special=False, parse_special=parse_special)
        ids = self._vocabulary.tokenize("\0" + text, add_special=False, parse_special=parse_special)
        return ids[len(self._lead) :]

    def _hide_edges(self, text: str, hidden: _Hidden) -> str:
        """Hide the start and end of a content, or all of it, where they are a part of a control token's text.

        White space around it is ignored: many templates strip it.
        """
        core = text.strip()
        if not core:
            return text
        longest = max(map(len, self._controls))
        if len(core) < longest and any(core in control for control in self._controls):
            edges = (len(core), 0)
        else:
            sizes = range(min(longest, len(core)) - 1, 0, -1)
            head = next((n for n in sizes if _begins(self._backwards, core[:n][::-1])), 0)
            tail = next((n for n in sizes if n <= len(core) - head and _begins(self._controls, core[-n:])), 0)
            edges = (head, tail)
        head, tail = edges
        middle = core[head : len(core) - tail]
        core = (hidden.hide(core[:head]) if head else "") + middle + (hidden.hide(core[-tail:]) if tail else "")
        before = len(text) - len(text.lstrip())
        return text[:before] + core + text[len(text.rstrip()) :]

    def _render(self, said: Conversation, asked_at: float | None, prompting: Prompting) -> str:
        render, date = self.template.render, datetime.now() if asked_at is None else datetime.fromtimestamp(asked_at)
        if render is None:
            raise NoTemplate(self.template.note)
        messages: Sequence[Mapping[str, Any]] = said.messages
        fill: Callable[..., str] = render
        if not said.is_plain:
            messages, tools = for_template(self.format, said.messages, said.tools)
            if isinstance(render, Jinja):
                fill = partial(render, **self._variables(render, said.effort, tools))
        if prompting.continue_final_message:  # what an answer begins with, after what opens it
            return fill(messages[:-1], date) + str(messages[-1]["content"])
        return fill(messages, date, opens_answer=prompting.add_generation_prompt)

    def _variables(self, render: Jinja, effort: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What lists tools and switches reasoning in the template. Raises NoSwitch."""
        level = effort if effort != "on" else None
        variables = switched(self.format.switches, thinks=effort == "on" or None, effort=level or None)
        if variables is None:
            raise NoSwitch("The model's chat template has no switch for that.")
        return {**variables, **(tool_values(render, tools) if tools else {})}


class _Hidden:
    """Texts taken out of clients' messages, each with a placeholder in its place."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        # Unguessable, so no client can write a placeholder; letters only, so that no filter changes it.
        self._mark = "".join(chr(ord("a") + b % 26) for b in secrets.token_bytes(24))

    def __call__(self, match: re.Match[str]) -> str:
        return self.hide(match.group())

    def hide(self, text: str) -> str:
        """The placeholder that now stands for `text`, the same for equal ones: ids are to stay equal."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return f"{self._mark}{_letters(self._numbers[text])}{self._mark}"

    def split(self, rendered: str) -> list[str]:
        """Text, placeholder's number in letters, text, ...: an odd number of parts."""
        return re.split(f"{self._mark}([a-j]+){self._mark}", rendered)


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for the longest of `texts` at a position, which tries common prefixes once (a trie).

    Gemma has 6,000 control tokens: one branch for each would take seconds for 100 KB of "<".
    """
    trie: dict[str, Any] = {}
    for text in texts:
        node = trie
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}  # a text ends here

    def pattern(node: dict[str, Any]) -> str:
        branches = [re.escape(letter) + pattern(child) for letter, child in node.items() if letter]
        rest = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})" if branches else ""
        return f"(?:{rest})?" if rest and "" in node else rest

    return pattern(trie)


def _begins(texts: Sequence[str], part: str) -> bool:
    """Whether one of `texts`, which are sorted, begins with `part` and is longer."""
    at = bisect.bisect_right(texts, part)
    return at < len(texts) and texts[at].startswith(part)


def _letters(number: int) -> str:
    """A number in the digits a .. j, since a template may filter or change real digits."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _number(letters: str) -> int:
    return int("".join(str(ord(letter) - ord("a")) for letter in letters))
