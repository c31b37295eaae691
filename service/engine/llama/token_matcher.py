"""llguidance behind one interface: which tokens may come next in a text of a given form.

A grammar of a client's may end or hang the process that compiles it: sampling/structures.py decides where.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from service.engine.llama.deep_stack import run_deep
from service.engine.llama.model import LlamaError, Model

MOST_ITEMS = 2000  # llguidance's default; an object has about four for each optional property
SPM_SPACE = "\u2581"  # SentencePiece writes spaces so: where a text with it is forced, no token is found
STACK_PER_BYTE = 4  # times run_deep's: references of 26 bytes, of which 1,000 overflow 8 MiB, get 100 KiB each
MOST_LEXER_STATES = 30_000  # 1 to 2 KB each, made as texts need them; the streams of one grammar share them


class TokenMatcher:
    """One answer's state. Not safe for two threads at once."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        """Raises LlamaError for a grammar that was refused."""
        self._matcher, self._n_vocab = matcher, n_vocab
        self._check()

    def copy(self) -> TokenMatcher:
        """Another one in the same state, in microseconds."""
        return TokenMatcher(self._matcher.deep_copy(), self._n_vocab)

    def follow(self, tokens: Sequence[int]) -> None:
        """Accept these tokens. Raises LlamaError for one that does not fit, or costs too much to follow."""
        if tokens:
            self._matcher.consume_tokens(list(tokens))
            self._check()

    def allowed(self) -> NDArray[np.uint8]:
        """A bit for each token, the lowest of each byte first: whether it may come next. Once nothing but the end may
        follow, those of the end tokens. Raises LlamaError where none may, or it costs too much to find them.

        It has as many bytes as whole words of 32 bits for the vocabulary."""
        mask = self._matcher.compute_bitmask()
        self._check()  # a mask that failed has the end tokens, as one at the end
        return np.frombuffer(
            mask, np.uint8, count=-(-self._n_vocab // 32) * 4
        )  # a vocabulary of whole words has one more

    def _check(self) -> None:
        if self._matcher.is_error():
            raise LlamaError(self._matcher.get_error().partition("\n")[0])


class MatcherFactory:
    """Makes the matchers of one model's vocabulary. Safe from any thread."""

    def __init__(self, model: Model) -> None:
        """Takes 0.7 s and 60 MB for 152k tokens. Raises LlamaError for a vocabulary that it can't use."""
        if not model.end_tokens:
            raise LlamaError("this model has no token that ends an answer")
        self._model = model  # kept: the tokenizer holds a pointer to its vocabulary
        try:
            self._tokenizer = lltokenizer_from_vocab(model.vocab, eos_token=sorted(model.end_tokens))
        except (ValueError, RuntimeError) as e:
            raise LlamaError("this model's vocabulary can't be matched with a form") from e
        ids = self._tokenizer.tokenize_str(SPM_SPACE)
        self._has_spm_space = self._tokenizer.decode_bytes(ids) == SPM_SPACE.encode()

    def make(self, grammar: str, *, stack: int = 1, most_items: int = MOST_ITEMS) -> TokenMatcher:
        """Compile a grammar: llguidance's JSON. Raises LlamaError.

        stack: how much of it there is, in multiples of STACK_PER_BYTE; it recurses for each reference.
        most_items: ways in which a text may be continued, over all its parses.
        """
        if SPM_SPACE in grammar and not self._has_spm_space:
            raise LlamaError(f"this model's tokenizer takes {SPM_SPACE} (U+2581) for a space")
        limits = LLParserLimits(max_items_in_row=most_items, max_lexer_states=MOST_LEXER_STATES, verbose_errors=False)
        run = partial(LLMatcher, self._tokenizer, grammar, log_level=0, limits=limits)
        try:
            return TokenMatcher(run_deep(stack * STACK_PER_BYTE * len(grammar), run), self._model.n_vocab)
        except MemoryError as e:
            raise LlamaError(str(e)) from e


def of_regex(pattern: str) -> str:
    """The grammar of the texts that this pattern matches as a whole."""
    return LLMatcher.grammar_from_regex(pattern)
