"""reading.py: how a request's text is tokenized, and with which message it is refused."""

from __future__ import annotations

from functools import partial

import pytest
from msgspec.structs import replace

from service.engine.llama.model import Model
from service.engine.prompts.reading import Reading
from service.engine.prompts.template import Prompts
from service.engine.sampling.sampler import check_grammar
from service.engine.sampling.structures import Structures
from service.protocol.constraints import Constraints
from service.protocol.frames import Rejected, Submit
from service.protocol.prompting import Prompting
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import Tooling
from tests.engine.prompts.test_template import With

SUBMIT = Submit(id="id", sampling=Sampling(seed=0), stop=["fox"], max_tokens=7)


def reading(model: Model) -> Reading:
    return Reading(Prompts(model), partial(check_grammar, model), Structures(model).prove)


def test_a_text_and_a_chat_become_tokens(bpe: Model) -> None:
    """All other fields are unchanged."""
    read = reading(bpe)
    text = replace(SUBMIT, text="the fox")
    assert read(text) == replace(SUBMIT, tokens=bpe.tokenize("the fox", add_special=True, parse_special=False))
    echoed = read(replace(text, echo=True))
    assert isinstance(echoed, Submit) and echoed.text == "the fox"  # to be repeated as it was written
    chat = replace(SUBMIT, messages=[{"role": "user", "content": "hello"}])
    assert read(chat) == replace(SUBMIT, tokens=Prompts(bpe).chat([{"role": "user", "content": "hello"}]))


def test_tokens_stay_tokens(bpe: Model) -> None:
    """Token ids are not changed."""
    submit = replace(SUBMIT, tokens=[1, 2, 3])
    assert reading(bpe)(submit) == submit


def test_a_chat_without_a_template_is_refused(spm: Model) -> None:
    """The message says what to do; a bare prompt is tokenized as it is."""
    read = reading(spm)
    chat = replace(SUBMIT, messages=[{"role": "user", "content": "hello"}])
    refused = read(chat)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("no_chat_template", "messages")
    assert "RILL_CHAT_TEMPLATE" in refused.message
    raw = read(replace(chat, or_raw=True))
    assert isinstance(raw, Submit)
    assert raw.tokens == spm.tokenize("hello", add_special=True, parse_special=False)


def test_reasoning_that_the_template_does_not_switch_is_refused(bpe: Model) -> None:
    """The rejection names the field."""
    chat = replace(SUBMIT, messages=[{"role": "user", "content": "hello"}], tooling=Tooling(effort="none"))
    refused = reading(bpe)(chat)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("invalid_request", "reasoning_effort")


def test_a_bare_prompt_gets_the_template(bpe: Model) -> None:
    """It becomes a user's message."""
    chat = replace(SUBMIT, messages=[{"role": "user", "content": "hello"}])
    one, other = reading(bpe)(chat), reading(bpe)(replace(chat, or_raw=True))
    assert isinstance(one, Submit) and isinstance(other, Submit)
    assert one.tokens == other.tokens


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_a_grammar_is_checked_whatever_the_prompt_is(bpe: Model, kind: str) -> None:
    """An invalid one is refused by its field's name."""
    submit = replace(SUBMIT, sampling=Sampling(seed=0, grammar="root ::="))
    submit = replace(submit, text="x") if kind == "text" else replace(submit, tokens=[1])
    assert isinstance(reading(bpe)(submit), Submit)
    refused = reading(bpe)(replace(submit, sampling=Sampling(seed=0, grammar="root :=")))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("invalid_request", "grammar")


def test_a_biased_text_is_its_tokens(bpe: Model) -> None:
    """Each of them gets the bias, as from llama-server; ids stay as they are."""
    fox = bpe.tokenize(" fox</s>", add_special=False, parse_special=False)
    assert len(fox) > 2
    sampling = Sampling(seed=0, logit_bias=((" fox</s>", -5.0), (7, None)))
    read = reading(bpe)(replace(SUBMIT, text="x", sampling=sampling))
    assert isinstance(read, Submit)
    assert read.sampling.logit_bias == (*((token, -5.0) for token in fox), (7, None))


def test_too_many_tokens_are_biased(bpe: Model) -> None:
    """As many as may be given by id, and no more: it is refused by the field's name."""
    sampling = Sampling(seed=0, logit_bias=tuple(("q" * 64, float(n)) for n in range(16)))
    assert isinstance(reading(bpe)(replace(SUBMIT, text="x", sampling=sampling)), Submit)
    more = replace(sampling, logit_bias=(*sampling.logit_bias, (1, 1.0)))
    refused = reading(bpe)(replace(SUBMIT, text="x", sampling=more))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("invalid_request", "logit_bias")


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_bad_words_are_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    """As they continue a text, and after a space: one that begins the answer is as bad as one within it."""
    model: Model = request.getfixturevalue(kind)
    words = ("fox", "  fox", " \n", (1, 2))
    read = reading(model)(replace(SUBMIT, text="x", constraints=Constraints(bad_words=words)))
    assert isinstance(read, Submit)
    *found, given = read.constraints.bad_words
    texts = [b"".join(model.piece(t) for t in ids if isinstance(t, int)) for ids in found]
    assert (texts, given) == ([b"fox", b" fox", b" \n"], (1, 2))


def test_special_tokens_of_a_bare_prompt(bpe: Model) -> None:
    """They are left out on request, of one that is rendered by no template, too."""
    plain = replace(SUBMIT, text="the", prompting=Prompting(add_special_tokens=False))
    read = reading(bpe)(plain)
    assert isinstance(read, Submit)
    assert read.tokens == bpe.tokenize("the", add_special=False, parse_special=False)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_a_structure_is_proven_whatever_the_prompt_is(bpe: Model, kind: str) -> None:
    """An invalid one is refused by the name of the field that it came in."""
    submit = replace(SUBMIT, text="x") if kind == "text" else replace(SUBMIT, tokens=[1])
    assert isinstance(reading(bpe)(replace(submit, structure=Structure("regex", "a+", "guided_regex"))), Submit)
    refused = reading(bpe)(replace(submit, structure=Structure("regex", "(", "guided_regex")))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.param) == ("invalid_request", "guided_regex")


def test_any_other_error_refuses_the_request(bpe: Model) -> None:
    """The message has the error's type, and nothing of its text."""
    prompts = Prompts(With(bpe, "{{ messages[0].content }}"))
    read = Reading(prompts, partial(check_grammar, bpe), Structures(bpe).prove)
    refused = read(replace(SUBMIT, messages=[{"role": "user"}]))
    assert refused == Rejected("id", "invalid_prompt", "The request can't be processed: KeyError.")
