"""Tokenizes a Submit's prompt, and checks that llama.cpp can follow its grammar. How long that takes depends on the
text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from service.engine.llama.model import LlamaError
from service.engine.prompts.chat_template import NoTemplate
from service.engine.prompts.jinja import TemplateError
from service.engine.prompts.template import Prompts
from service.engine.sampling.gbnf_parser import GrammarError
from service.protocol.frames import Rejected, Submit

Result = TypeVar("Result")


class Reading:
    """With one model's vocabulary and chat template. Safe from any one thread at a time."""

    def __init__(self, prompts: Prompts, check_grammar: Callable[[str], None]) -> None:
        """check_grammar: raises GrammarError for a text that no sampler can be made of."""
        self._prompts, self._check_grammar = prompts, check_grammar

    def __call__(self, submit: Submit) -> Submit | Rejected:
        """The same with tokens for text or messages, fully validated; or its rejection."""
        return safely(submit, lambda: self._read(submit))

    def _read(self, submit: Submit) -> Submit | Rejected:
        try:
            if submit.sampling.grammar:
                self._check_grammar(submit.sampling.grammar)
            if submit.messages is not None:
                if submit.or_raw and self._prompts.template.render is None:
                    return replace(submit, messages=None, tokens=self._prompts.raw(submit.messages[0]["content"]))
                tokens = self._prompts.chat(submit.messages, submit.asked_at)
                return replace(submit, messages=None, tokens=tokens, stop=[*submit.stop, *self._prompts.template.stop])
            if submit.text is not None:
                text = submit.text if submit.echo else None
                return replace(submit, text=text, tokens=self._prompts.raw(submit.text))
        except NoTemplate as e:
            return Rejected(submit.id, "no_chat_template", str(e), "messages")
        except GrammarError as e:
            return Rejected(submit.id, "invalid_request", f"grammar: {e}", "grammar")
        except (TemplateError, LlamaError) as e:
            return Rejected(submit.id, "invalid_prompt", str(e))
        return submit


def safely(submit: Submit, run: Callable[[], Result]) -> Result | Rejected:
    """Turn any exception into the rejection of this one request, so that others are still processed."""
    try:
        return run()
    except Exception as e:
        return Rejected(submit.id, "invalid_prompt", f"The request can't be processed: {type(e).__name__}.")
