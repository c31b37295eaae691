"""What a Submit asks for, read: its prompt as tokens, its grammar as one that llama.cpp follows. How long that takes is
for the text to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from .chat_template import NoTemplate
from .gbnf import GrammarError
from .jinja import TemplateError
from .llama import LlamaError
from .protocol import Refused, Submit
from .template import Prompts

Result = TypeVar("Result")


class Reading:
    """With one model's vocabulary and chat template. Safe from any one thread at a time."""

    def __init__(self, prompts: Prompts, check_grammar: Callable[[str], None]) -> None:
        """check_grammar: raises GrammarError for a text that no sampler can be made of."""
        self._prompts, self._check_grammar = prompts, check_grammar

    def __call__(self, submit: Submit) -> Submit | Refused:
        """The same with tokens for text or messages, and no more to be found wrong with them."""
        return safely(submit, lambda: self._read(submit))

    def _read(self, submit: Submit) -> Submit | Refused:
        try:
            if submit.sampling.grammar:
                self._check_grammar(submit.sampling.grammar)
            if submit.messages is not None:
                if submit.or_raw and self._prompts.template.render is None:
                    return replace(submit, messages=None, tokens=self._prompts.raw(submit.messages[0]["content"]))
                tokens = self._prompts.chat(submit.messages, submit.asked_at)
                return replace(submit, messages=None, tokens=tokens, stop=[*submit.stop, *self._prompts.template.stop])
            if submit.text is not None:
                return replace(submit, text=None, tokens=self._prompts.raw(submit.text))
        except NoTemplate as e:
            return Refused(submit.id, "no_chat_template", str(e), "messages")
        except GrammarError as e:
            return Refused(submit.id, "invalid_request", f"grammar: {e}", "grammar")
        except (TemplateError, LlamaError) as e:
            return Refused(submit.id, "invalid_prompt", str(e))
        return submit


def safely(submit: Submit, run: Callable[[], Result]) -> Result | Refused:
    """Whatever goes wrong with one request is that one's alone: there are others to be read."""
    try:
        return run()
    except Exception as e:
        return Refused(submit.id, "invalid_prompt", f"The request can't be read: {type(e).__name__}.")
