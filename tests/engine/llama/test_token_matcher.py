"""token_matcher.py: which tokens may come next, and that what can't be followed is an error and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine.llama.model import LlamaError, Model
from service.engine.llama.token_matcher import MatcherFactory, TokenMatcher, of_regex
from tests.engine import tiny


@pytest.fixture(scope="module")
def factory(bpe: Model) -> MatcherFactory:
    return MatcherFactory(bpe)


def allowed(matcher: TokenMatcher) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(matcher.allowed(), bitorder="little")).tolist())


def ids(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=False, parse_special=False)


def test_a_mask_has_the_tokens_that_may_come_next(factory: MatcherFactory, bpe: Model) -> None:
    """At the start, after some, and all end tokens once nothing else may follow."""
    matcher = factory.make(of_regex("[ab]c"))
    assert allowed(matcher) == {*ids(bpe, "a"), *ids(bpe, "b")}
    matcher.follow(ids(bpe, "a"))
    assert allowed(matcher) == set(ids(bpe, "c"))
    matcher.follow(ids(bpe, "c"))
    assert allowed(matcher) == bpe.end_tokens and len(bpe.end_tokens) > 1


@pytest.mark.parametrize("n_more", [0, 1, 31])
def test_a_vocabulary_of_whole_words(write: Callable[..., Path], bpe: Model, n_more: int) -> None:
    """A mask has no bit beyond the last token's, whether or not the tokens fill the last word of 32 bits."""
    controls = [*tiny.CONTROLS, *(f"<{i}>" for i in range(-bpe.n_vocab % 32 + n_more))]
    model = Model(write(f"words-{n_more}", controls=controls))
    assert model.n_vocab % 32 == n_more
    matcher = MatcherFactory(model).make(of_regex("(?s:.*)"))
    for token in ids(model, "the fox"):
        assert matcher.allowed().size == -(-model.n_vocab // 32) * 4
        assert max(allowed(matcher)) < model.n_vocab
        matcher.follow([token])


def test_the_end_is_allowed_where_the_text_is_complete(factory: MatcherFactory, bpe: Model) -> None:
    """With the tokens that would continue it."""
    matcher = factory.make(of_regex("a+"))
    assert not allowed(matcher) & bpe.end_tokens
    matcher.follow(ids(bpe, "a"))
    assert allowed(matcher) == {*ids(bpe, "a"), *bpe.end_tokens}


def test_a_copy_is_another_one(factory: MatcherFactory, bpe: Model) -> None:
    """In the same state; what it follows later does not change the original."""
    matcher = factory.make(of_regex("abc"))
    matcher.follow(ids(bpe, "a"))
    copy = matcher.copy()
    copy.follow(ids(bpe, "b"))
    assert (allowed(matcher), allowed(copy)) == (set(ids(bpe, "b")), set(ids(bpe, "c")))


def test_errors(factory: MatcherFactory, bpe: Model) -> None:
    """A grammar that is none, a token that does not fit, a place where none does."""
    for grammar in ("", "{", '{"grammars":[]}', of_regex("("), '{"grammars":[{"json_schema":{"not":{}}}]}'):
        with pytest.raises(LlamaError):
            factory.make(grammar)
    matcher = factory.make(of_regex("a"))
    with pytest.raises(LlamaError):
        matcher.follow(ids(bpe, "b"))
    with pytest.raises(LlamaError):
        matcher.allowed()


def test_messages_have_nothing_of_the_answer(factory: MatcherFactory, bpe: Model) -> None:
    """One line, with no state of the matcher."""
    matcher = factory.make(of_regex("secret"))
    matcher.follow(ids(bpe, "s"))
    with pytest.raises(LlamaError) as error:
        matcher.follow(ids(bpe, "x"))
    assert "\n" not in str(error.value) and "ecret" not in str(error.value)


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_forced_text_is_tokenized_as_ever(kind: str, bpe: Model, spm: Model) -> None:
    """Where a text is forced, its usual tokens are, and the text is that one to its end."""
    model = bpe if kind == "bpe" else spm
    matcher, made = MatcherFactory(model).make(of_regex('Hello world "é"')), list[int]()
    while not (fits := allowed(matcher)) & model.end_tokens:
        made.append(min(fits))
        matcher.follow(made[-1:])
    assert b"".join(model.piece(token) for token in made).decode() == 'Hello world "é"'


def test_a_character_that_a_tokenizer_takes_for_a_space(factory: MatcherFactory, spm: Model) -> None:
    """SentencePiece can't spell it: such a grammar is refused, for it would end its stream later."""
    grammar = of_regex("long enough to be proven, and then \u2581")
    factory.make(grammar)
    with pytest.raises(LlamaError, match="for a space"):
        MatcherFactory(spm).make(grammar)


def test_a_vocabulary_without_an_end(write: Callable[..., Path], bpe: Model) -> None:
    """It is refused: an answer could not end where its form does."""

    class Endless:
        end_tokens: frozenset[int] = frozenset()

    with pytest.raises(LlamaError, match="no token that ends"):
        MatcherFactory(Endless())  # type: ignore[arg-type]
