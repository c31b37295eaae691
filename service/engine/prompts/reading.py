"""Tokenizes a Submit's prompt, and checks that its grammar or structure can be followed. How long that takes depends on
the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from service.engine.llama.model import LlamaError
from service.engine.prompts.chat_template import NoTemplate
from service.engine.prompts.jinja import TemplateError
from service.engine.prompts.template import NoSwitch, Prompts
from service.engine.sampling.gbnf_parser import GrammarError
from service.protocol.frames import Rejected, Submit
from service.protocol.sampling import MAX_BIASES
from service.protocol.structure import Structure

Result = TypeVar("Result")


class TooManyBiases(Exception):
    """The texts in logit_bias have more tokens than may be biased."""


class Reading:
    """With one model's vocabulary and chat template. Safe from any one thread at a time."""

    def __init__(
        self, prompts: Prompts, check_grammar: Callable[[str], None], prove: Callable[[Structure], None]
    ) -> None:
        """check_grammar, prove: raise GrammarError for one that no sampler can be made of."""
        self._prompts, self._check_grammar, self._prove = prompts, check_grammar, prove

    def __call__(self, submit: Submit) -> Submit | Rejected:
        """The same with tokens for text or messages, fully validated; or its rejection."""
        return safely(submit, lambda: self._read(submit))

    def _read(self, submit: Submit) -> Submit | Rejected:
        try:
            submit = self._tokenized(submit)
            if submit.sampling.grammar:
                self._check_grammar(submit.sampling.grammar)
            if submit.structure:
                self._prove(submit.structure)
            if submit.messages is not None:
                if submit.or_raw and self._prompts.template.render is None:
                    return replace(submit, messages=None, tokens=self._raw(submit, submit.messages[0]["content"]))
                tokens = self._prompts.chat(submit.messages, submit.asked_at, submit.prompting, submit.tooling)
                return replace(submit, messages=None, tokens=tokens, stop=[*submit.stop, *self._prompts.template.stop])
            if submit.text is not None:
                text = submit.text if submit.echo else None
                return replace(submit, text=text, tokens=self._raw(submit, submit.text))
        except NoTemplate as e:
            return Rejected(submit.id, "no_chat_template", str(e), "messages")
        except NoSwitch as e:
            return Rejected(submit.id, "invalid_request", f"reasoning_effort: {e}", "reasoning_effort")
        except GrammarError as e:
            return not_followed(submit, e)
        except TooManyBiases as e:
            return Rejected(submit.id, "invalid_request", f"logit_bias: {e}", "logit_bias")
        except (TemplateError, LlamaError) as e:
            return Rejected(submit.id, "invalid_prompt", str(e))
        return submit

    def _raw(self, submit: Submit, text: str) -> list[int]:
        return self._prompts.raw(text, adds=submit.prompting.add_special_tokens is not False)

    def _tokenized(self, submit: Submit) -> Submit:
        """With token ids for the texts of its biases and its bad words. Raises TooManyBiases."""
        sampling, constraints = submit.sampling, submit.constraints
        if not sampling.logit_bias and not constraints.bad_words:
            return submit
        biases = tuple((token, bias) for key, bias in sampling.logit_bias for token in self._biased(key))
        if len(biases) > MAX_BIASES:
            raise TooManyBiases(f"its texts have {len(biases)} tokens; {MAX_BIASES} may be biased")
        words = [ids for word in constraints.bad_words for ids in self._words(word)]
        return replace(
            submit,
            sampling=replace(sampling, logit_bias=biases),
            constraints=replace(constraints, bad_words=tuple(dict.fromkeys(words))),
        )

    def _biased(self, key: int | str) -> list[int]:
        return [key] if isinstance(key, int) else self._prompts.tokens(key)

    def _words(self, word: str | tuple[int, ...]) -> list[tuple[int, ...]]:
        if not isinstance(word, str):
            return [word]
        return [tuple(ids) for ids in self._prompts.word(word) if ids]


def not_followed(submit: Submit, error: GrammarError) -> Rejected:
    """The rejection of a request whose grammar or structure can't be followed."""
    return Rejected(submit.id, "invalid_request", error.told, error.param)


def safely(submit: Submit, run: Callable[[], Result]) -> Result | Rejected:
    """Turn any exception into the rejection of this one request, so that others are still processed."""
    try:
        return run()
    except Exception as e:
        return Rejected(submit.id, "invalid_prompt", f"The request can't be processed: {type(e).__name__}.")
