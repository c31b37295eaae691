"""What a model's streams can be made to follow: structures, compiled once and kept by their text.

Compiling a client's grammar may take minutes, or end the process: `prove` does it first in the preparer's process,
which can be killed. What it passed, the engine compiles in turn, on a larger stack and off the decoding thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
import numpy as np

from service.engine.llama.model import LlamaError, Model
from service.engine.llama.token_matcher import MOST_ITEMS, MatcherFactory, TokenMatcher, of_regex
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.aside import give_way
from service.engine.sampling.gbnf_parser import GrammarError
from service.engine.sampling.json_schema import enforceable
from service.engine.sampling.sampler import Sampler
from service.engine.sampling.structured import Lookahead, StructuredSampler, StructureError, tokens_of
from service.protocol.structure import Structure

Value = TypeVar("Value")

MOST_KEPT = 16  # compiled structures: the texts that have followed one leave up to 60 MB of lexer states with it
N_PROVEN = 16  # tokens: of 200 hostile grammars those that fail do so at once, or within a few
MOST_TOLD = 300  # characters of llguidance's message
MOST_PARSED = 500  # items of a client's own rules: an ambiguous grammar's masks take 0.4 s with four times as many
N_THREADS = 2  # a mask takes 10 to 100 us, 2 ms at worst
SPARE = 2  # times the stack with which it was proven

# What llguidance says of what is known to happen, and what its client can do.
WORDS = {
    "oneOf constraints": "'oneOf' can't be enforced where two of its schemas may fit the same value: use 'anyOf'",
    "recursion limit exceeded": "it is nested too deep",
}


class Structures:
    """Of one model. Safe from any thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._factory: MatcherFactory | None = None
        self._kept: OrderedDict[tuple[str, str], TokenMatcher] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="mask", initializer=give_way)

    def __repr__(self) -> str:
        return f"<Structures {len(self._kept)} kept>"

    def knows(self, structure: Structure) -> bool:
        """Whether it is compiled: a stream can begin at once."""
        return _key(structure) in self._kept

    def load(self) -> MatcherFactory:
        """The model's vocabulary, made at the first call. Raises LlamaError where it can't be used."""
        with self._loading:
            if self._factory is None:
                self._factory = MatcherFactory(self._model)
            return self._factory

    def prove(self, structure: Structure) -> None:
        """Compile it and follow some text of it. Raises StructureError; it may take for ever, or end the process."""
        if self.knows(structure):
            return
        matcher = self._compiled(structure, stack=1)
        try:
            _try_out(matcher.copy(), self._model)
        except LlamaError as e:
            raise _refusal(structure, e) from e
        self._keep(structure, matcher)

    def compile(self, structure: Structure) -> TokenMatcher:
        """The matcher of a structure that is proven, kept for the next stream. Raises StructureError."""
        with self._lock:
            if kept := self._kept.get(_key(structure)):
                self._kept.move_to_end(_key(structure))
                return kept
        return self._keep(structure, self._compiled(structure, stack=SPARE))

    def sampler(self, structure: Structure, sampler: Sampler | Argmax, banned: Collection[int]) -> StructuredSampler:
        """A sampler that draws with this one, among the tokens that the structure allows, less the banned ones.

        Raises StructureError.
        """
        failed = partial(self._forget, structure)
        lookahead = Lookahead(self.compile(structure).copy(), self._pool, structure.field, failed)
        return StructuredSampler(self._model, sampler, lookahead, banned)

    def close(self) -> None:
        """End its threads; a second call does nothing."""
        self._pool.shutdown(cancel_futures=True)

    def _compiled(self, structure: Structure, stack: int) -> TokenMatcher:
        try:
            most_items = MOST_PARSED if structure.kind == "lark" else MOST_ITEMS
            return self.load().make(_grammar(structure), stack=stack, most_items=most_items)
        except (GrammarError, LlamaError) as e:
            raise _refusal(structure, e) from e

    def _keep(self, structure: Structure, matcher: TokenMatcher) -> TokenMatcher:
        with self._lock:
            self._kept[_key(structure)] = matcher
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _forget(self, structure: Structure) -> None:
        """One of its streams failed, perhaps for the lexer states that all of them have made."""
        with self._lock:
            self._kept.pop(_key(structure), None)


def _key(structure: Structure) -> tuple[str, str]:
    return structure.kind, structure.text


def _grammar(structure: Structure) -> str:
    """llguidance's JSON. Raises GrammarError."""
    if structure.kind == "regex":
        return of_regex(structure.text)
    if structure.kind == "lark":
        return _encoded({"grammars": [{"lark_grammar": structure.text}]})
    if structure.kind == "choice":
        choices = " | ".join(_encoded(choice) for choice in _decoded(structure.text, list[str]))
        return _encoded({"grammars": [{"lark_grammar": f"start: {choices}"}]})
    schema = enforceable(_decoded(structure.text, dict[str, Any]))
    return _encoded({"grammars": [{"json_schema": schema}]})


def _encoded(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(text: str, kind: type[Value]) -> Value:
    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError:
        raise GrammarError("it is nested too deep") from None
    except ValueError:
        raise GrammarError("it is not valid JSON") from None


def _try_out(matcher: TokenMatcher, model: Model) -> None:
    """Follow some text of it. Raises LlamaError."""
    for n in range(N_PROVEN):
        fit = tokens_of(matcher.allowed())
        ids = np.setdiff1d(fit, list(model.control_tokens | model.end_tokens))
        if ids.size == 0 and not model.end_tokens.intersection(fit.tolist()):
            raise LlamaError("it needs a control token, which is no part of the text")
        if ids.size == 0:
            return
        matcher.follow([int(ids[n * 7919 % ids.size])])  # now a letter, now a bracket


def _refusal(structure: Structure, error: Exception) -> StructureError:
    told = str(error)
    known = (words for begin, words in WORDS.items() if begin in told)
    return StructureError(next(known, told[:MOST_TOLD]), structure.field)
