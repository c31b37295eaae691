"""Answers of a given form: they have it, to their end, and continue in another engine as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace
from numpy.typing import NDArray

from service.engine.llama.context import Context
from service.engine.llama.model import Model
from service.engine.llama.sampler_chain import Candidates
from service.engine.llama.token_matcher import TokenMatcher
from service.engine.sampling.chain import is_rebuildable
from service.engine.sampling.forbidden import Forbidden
from service.engine.sampling.sampler import GRAMMAR_S, make
from service.engine.sampling.structured import Lookahead, StructuredSampler, StructureError
from service.engine.sampling.structures import Structures
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure, StructureKind
from tests.engine import schemas
from tests.engine.conftest import MakeContext
from tests.engine.sampling.test_sampler import KINDS, PLAIN, text_of

WARM = replace(PLAIN, temperature=1.2)
N_MOST = 400  # tokens
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def structures(bpe: Model) -> Iterator[Structures]:
    made = Structures(bpe)
    yield made
    made.close()


def form(kind: StructureKind, text: str) -> Structure:
    return Structure(kind, text, "theirs")


def of_schema(schema: dict[str, Any]) -> Structure:
    return form("json", json.dumps(schema, ensure_ascii=False))


def sampler(
    model: Model, structures: Structures, structure: Structure, sampling: Sampling, *, ignore_eos: bool = False
) -> StructuredSampler:
    banned = {token for token, bias in sampling.logit_bias if bias is None and isinstance(token, int)}
    banned |= model.end_tokens if ignore_eos else set()
    return structures.sampler(structure, make(model, sampling, ignore_eos=ignore_eos), banned)


def answer(
    context: Context,
    model: Model,
    structures: Structures,
    structure: Structure,
    sampling: Sampling,
    *,
    renewed: frozenset[int] = frozenset(),
    ignore_eos: bool = False,
) -> list[int]:
    """The tokens up to the end, or N_MOST; the sampler is rebuilt after each of these numbers of tokens."""
    prompt = model.tokenize("the fox and the fox and", add_special=True, parse_special=True)
    candidates, made = Candidates(model.n_vocab), list[int]()
    drawing = sampler(model, structures, structure, sampling, ignore_eos=ignore_eos)
    drawing.go_on(prompt, [])
    (index,) = context.decode([(0, 0, prompt, True)])
    while len(made) < N_MOST and not model.end_tokens & set(made):
        if len(made) in renewed:
            drawing.close()
            drawing = sampler(model, structures, structure, sampling, ignore_eos=ignore_eos)
            drawing.go_on(prompt, made)
        made.append(drawing.draw(context.logits(index), candidates))
        (index,) = context.decode([(0, len(prompt) + len(made) - 1, made[-1:], True)])
    drawing.close()
    context.forget(0)
    return made


def ended(model: Model, made: list[int]) -> str:
    """The text of an answer that ended by itself."""
    assert made[-1] in model.end_tokens
    return text_of(model, made)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_answers_of_a_schema_are_valid(
    bpe: Model, make_context: MakeContext, structures: Structures, first: int
) -> None:
    """Whatever the schema and however it is drawn, an answer that ends by itself is JSON of that schema."""
    context, n_ended = make_context(bpe), 0
    for seed in range(first, first + 10):
        schema = schemas.whole(random.Random(seed))
        validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        validator.check_schema(schema)
        for sampling in (replace(WARM, seed=seed), Sampling(seed=seed), replace(PLAIN, temperature=0.0)):
            made = answer(context, bpe, structures, of_schema(schema), sampling)
            if made[-1] in bpe.end_tokens:
                validator.validate(json.loads(text_of(bpe, made)))
                n_ended += 1
    assert n_ended > 15, "of 30"


FORMS: list[tuple[Structure, str]] = [
    (form("regex", "[a-c]{2,5}-(yes|no|é)"), "[a-c]{2,5}-(yes|no|é)"),
    (form("choice", '["yes","no","yes, é\\"\\\\","a"]'), 'yes|no|yes, é"\\\\|a'),
    (form("choice", '["a","ab","b","bc"]'), "a|ab|b|bc"),
    (form("lark", 'start: "<" item ("," item)* ">"\nitem: /[0-9]{1,3}/'), "<[0-9]{1,3}(,[0-9]{1,3})*>"),
    (form("json", '{"enum":["a",1]}'), '"a"|1'),
]


@pytest.mark.parametrize(("structure", "pattern"), FORMS)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_of_other_forms(
    bpe: Model,
    make_context: MakeContext,
    structures: Structures,
    structure: Structure,
    pattern: str,
    temperature: float,
) -> None:
    """A pattern, a choice and a grammar, greedy and drawn; with several seeds more than one answer."""
    context, texts = make_context(bpe), set()
    for seed in range(8):
        made = answer(context, bpe, structures, structure, replace(PLAIN, temperature=temperature, seed=seed))
        texts.add(ended(bpe, made))
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert (len(texts) > 1) == (temperature > 0), texts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].grammar])
def test_a_rebuilt_sampler_continues_identically(
    bpe: Model, make_context: MakeContext, structures: Structures, kind: str
) -> None:
    """At any place the prompt, the tokens so far and the seed determine what comes next, with every sampler."""
    structure = of_schema({"type": "array", "items": PERSON, "minItems": 2, "maxItems": 2})
    context, sampling = make_context(bpe), KINDS[kind]
    undisturbed = answer(context, bpe, structures, structure, sampling)
    assert len(undisturbed) > 20
    other = Structures(bpe)  # as in another engine
    places = [{1}, {2}, {9}, {len(undisturbed) - 1}, set(range(1, len(undisturbed)))]
    again = [answer(context, bpe, other, structure, sampling, renewed=frozenset(at)) for at in places]
    other.close()
    assert (again == [undisturbed] * len(places)) == is_rebuildable(sampling)


def test_the_likeliest_that_fits(bpe: Model, make_context: MakeContext, structures: Structures) -> None:
    """Greedily, whether few tokens fit or nearly all."""
    context, candidates = make_context(bpe), Candidates(bpe.n_vocab)
    prompt = bpe.tokenize("the fox", add_special=True, parse_special=True)
    (index,) = context.decode([(0, 0, prompt, True)])
    greedy = replace(PLAIN, temperature=0.0)
    logits = context.logits(index).copy()
    digits = {bpe.tokenize(d, add_special=False, parse_special=False)[0] for d in "0123456789"}
    others = [t for t in range(bpe.n_vocab) if t not in digits and bpe.piece(t).isascii() and bpe.piece(t)]
    for pattern, fitting in (("[0-9]", sorted(digits)), ("(?s:[\\x00-\\x2f\\x3a-\\x7f]+)", others)):
        drawing = sampler(bpe, structures, form("regex", pattern), greedy)
        drawing.go_on(prompt, [])
        assert drawing.draw(context.logits(index), candidates) == max(fitting, key=lambda token: logits[token])
        drawing.close()


def test_biases_and_bans(bpe: Model, make_context: MakeContext, structures: Structures) -> None:
    """A bias chooses among the tokens that fit; a banned one is not drawn though it fits."""
    context = make_context(bpe)
    ids = {letter: bpe.tokenize(letter, add_special=False, parse_special=False)[0] for letter in "ab"}
    for favoured, bias in (("a", (ids["a"], 50.0)), ("b", (ids["b"], 50.0)), ("b", (ids["a"], None))):
        sampling = replace(WARM, logit_bias=(bias,))
        assert ended(bpe, answer(context, bpe, structures, form("regex", "a|b"), sampling)) == favoured
    (z,) = bpe.tokenize("z", add_special=False, parse_special=False)
    elsewhere = replace(WARM, logit_bias=((z, 100.0),))
    assert ended(bpe, answer(context, bpe, structures, form("regex", "a|b"), elsewhere)) in ("a", "b")


def test_where_no_token_fits(bpe: Model, make_context: MakeContext, structures: Structures) -> None:
    """All that fit are banned: the error has the request's field. If only the end is banned, the answer ends."""
    (a,) = bpe.tokenize("a", add_special=False, parse_special=False)
    context = make_context(bpe)
    with pytest.raises(StructureError, match="no token") as error:
        answer(context, bpe, structures, form("regex", "a+"), replace(WARM, logit_bias=((a, None),)))
    assert error.value.param == "theirs" and error.value.told.startswith("theirs: ")
    context.forget(0)
    made = answer(context, bpe, structures, form("regex", "a{3}"), WARM, ignore_eos=True)
    assert ended(bpe, made) == "aaa"
    made = answer(context, bpe, structures, form("regex", "a{1,50}"), WARM, ignore_eos=True)
    assert ended(bpe, made) == "a" * 50


def test_control_tokens_are_not_drawn(bpe: Model, make_context: MakeContext, structures: Structures) -> None:
    """They are no part of the text, whatever a grammar says: their spelling is letters."""
    made = answer(make_context(bpe), bpe, structures, form("choice", '["<|im_start|>","<s>"]'), WARM)
    assert ended(bpe, made) in ("<|im_start|>", "<s>")


class Slow(TokenMatcher):
    """Takes more CPU time for a mask than a token brings."""

    def __init__(self) -> None:
        pass

    def follow(self, tokens: Sequence[int]) -> None:
        pass

    def allowed(self) -> NDArray[np.uint8]:
        end = thread_time() + 1.5 * GRAMMAR_S
        while thread_time() < end:
            pass
        return np.zeros(4, np.uint8)


def test_a_form_that_takes_too_long_ends_its_stream() -> None:
    """Each token brings some CPU time, in addition to that which a stream has at its start."""
    failed: list[bool] = []
    with ThreadPoolExecutor(1) as pool:
        lookahead = Lookahead(Slow(), pool, "theirs", lambda: failed.append(True), left_s=0.6 * GRAMMAR_S)
        lookahead.follow([])
        lookahead.allowed()
        lookahead.follow([1])
        with pytest.raises(StructureError, match="too long") as error:
            lookahead.allowed()
    assert (error.value.param, failed) == ("theirs", [True])


def test_close_twice(bpe: Model, structures: Structures) -> None:
    """Before its first token, too."""
    drawing = sampler(bpe, structures, form("regex", "a"), WARM)
    drawing.close()
    drawing.close()


def test_what_is_forbidden_for_a_while(bpe: Model, make_context: MakeContext, structures: Structures) -> None:
    """Bad words do not occur, and the answer does not end before min_tokens unless nothing else fits."""
    context = make_context(bpe)
    a, b = (bpe.tokenize(letter, add_special=False, parse_special=False)[0] for letter in "ab")
    limits = Forbidden(ends=bpe.end_tokens, min_tokens=12, words=[(a, b), (b, b, b)])
    for pattern, expected in (("[ab]{1,40}", "a*|b{1,2}a*"), ("a{3}", "aaa")):
        drawing = structures.sampler(form("regex", pattern), make(bpe, WARM, forbidden=limits), ())
        drawing.go_on([1], [])
        (index,) = context.decode([(0, 0, [1], True)])
        made: list[int] = []
        while not bpe.end_tokens & set(made):
            made.append(drawing.draw(context.logits(index).copy(), Candidates(bpe.n_vocab)))
        drawing.close()
        context.forget(0)
        assert re.fullmatch(expected, text_of(bpe, made))
        assert len(made) > 12 or pattern == "a{3}"
