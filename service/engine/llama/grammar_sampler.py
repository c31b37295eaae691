"""llama.cpp's grammar sampler: the tokens that a grammar allows after those accepted so far."""

from __future__ import annotations

import ctypes
import math
import re
from functools import partial

import llama_cpp as lib

from service.engine.llama.deep_stack import run_deep
from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates, alone

# Bytes that llama.cpp's grammars decode to the character 0, which it takes for the end of a token and allows, but
# aborts on when it is accepted. It does not check whether the next bytes within a token continue the character.
_NUL = re.compile(rb"\xc0[@\x80\xc0]|\xe0[@\x80\xc0]{2}|\xf0[@\x80\xc0]{3}")


class GrammarSampler:
    """One answer's grammar state. Not safe for two threads at once."""

    def __init__(self, model: Model, text: str) -> None:
        """text: GBNF, already checked; an answer has to match its rule `root`. Raises LlamaError."""
        source = text.encode()
        try:
            self._sampler = run_deep(len(source), partial(lib.llama_sampler_init_grammar, model.vocab, source, b"root"))
        except MemoryError as e:
            raise LlamaError(str(e)) from e
        if not self._sampler:
            raise LlamaError("llama.cpp does not understand this grammar.")
        self._model = model
        self._tail = b""  # the last bytes, which may begin an incomplete character

    def follow(self, token: int) -> None:
        """Accept a token; one that does not fit would abort the process."""
        lib.llama_sampler_accept(self._sampler, token)
        self._tail = (self._tail + self._model.piece(token))[-3:]

    def fits(self, token: int, logit: float = 0.0) -> bool:
        """Whether this token may come next; one with a logit of -inf may not."""
        if logit == -math.inf or _NUL.search(self._tail + self._model.piece(token)):
            return False
        one = alone(token)
        lib.llama_sampler_apply(self._sampler, ctypes.byref(one))
        return bool(one.data[0].logit > -math.inf)

    def mask(self, candidates: Candidates) -> None:
        """Set the logits of all tokens that do not fit to -inf."""
        lib.llama_sampler_apply(self._sampler, candidates.reference)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None
