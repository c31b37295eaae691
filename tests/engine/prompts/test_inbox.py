"""Submit to sequence: what is refused, with which message, and what is clamped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from service.engine.llama.deep_stack import SHALLOW_BYTES
from service.engine.llama.model import Model
from service.engine.llama.sampler_chain import Candidates
from service.engine.prompts.inbox import Inbox
from service.engine.sequences.sequence import Sequence
from service.protocol.constraints import Constraints
from service.protocol.frames import Accepted, Rejected, Submit
from service.protocol.prompting import Prompting
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure
from tests.engine.prompts.test_template import With


def submit(**fields: Any) -> Submit:
    return Submit(**{"id": "id", "sampling": Sampling(seed=1), **fields})


def opened(inbox: Inbox, **fields: Any) -> tuple[Sequence, Accepted]:
    result = inbox.open(submit(**fields), now=5.0)
    assert not isinstance(result, Rejected), result
    sequence, sampler, accepted = result
    sampler.close()
    return sequence, accepted


def refused(inbox: Inbox, **fields: Any) -> Rejected:
    result = inbox.open(submit(**fields), now=5.0)
    assert isinstance(result, Rejected)
    assert result.id == "id"
    return result


GREEDY = Sampling(seed=1, temperature=0.0)


def preferring(model: Model, *tokens: int) -> NDArray[np.float32]:
    """Logits with these as the likeliest, the first one most of all, and the others in order of their ids."""
    logits = -np.arange(model.n_vocab, dtype=np.float32)
    for n, token in enumerate(tokens):
        logits[token] = 100 - n
    return logits


@pytest.fixture
def inbox(bpe: Model) -> Inbox:
    return Inbox(bpe, n_ctx_seq=100)


def test_a_chat(inbox: Inbox, bpe: Model) -> None:
    """Messages become the template's ids, and Accepted has their number."""
    sequence, accepted = opened(inbox, messages=[{"role": "user", "content": "Hello"}], max_tokens=7)
    text = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert sequence.tokens == bpe.tokenize(text, add_special=True, parse_special=True)
    assert accepted == Accepted("id", n_prompt=len(sequence.tokens), max_tokens=7)
    assert (sequence.id, sequence.n_prompt, sequence.max_tokens) == ("id", len(sequence.tokens), 7)
    assert (sequence.accepted_at, sequence.seq_id, sequence.n_past) == (5.0, -1, 0)


def test_a_bare_text(inbox: Inbox, bpe: Model) -> None:
    """A text is completed as it is, control tokens' texts as text."""
    sequence, _ = opened(inbox, text="<|im_end|>fox")
    assert sequence.tokens == bpe.tokenize("<|im_end|>fox", add_special=True, parse_special=False)


def test_a_prompt_that_is_repeated(inbox: Inbox, bpe: Model) -> None:
    """Its text comes before the answer's; its tokens have log-probabilities, but the first, if they are wanted."""
    sequence, _ = opened(inbox, text="the fox", echo=True, logprobs=2, max_tokens=0)
    assert sequence.echo is not None and sequence.echo.text == "the fox"
    assert (sequence.max_tokens, sequence.n_unscored) == (0, sequence.n_prompt - 1)
    assert [one.logprob for one in sequence.held_logprobs] == [None]
    plain, _ = opened(inbox, tokens=sequence.tokens, echo=True)
    assert plain.echo is not None and plain.echo.text == "the fox"
    assert (plain.n_unscored, plain.held_logprobs) == (0, [])
    again, _ = opened(inbox, text="the fox", echo=True, logprobs=2, delivered=[5])
    assert (again.echo, again.n_unscored, again.held_logprobs) == (None, 0, [])


def test_too_many_log_probabilities_of_a_prompt(bpe: Model) -> None:
    """They would come in one event: 400, naming the field, the number and the limit."""
    inbox = Inbox(bpe, n_ctx_seq=1 << 15)
    assert refused(inbox, tokens=[5] * 1000, echo=True, logprobs=20) == Rejected(
        "id",
        "invalid_request",
        "echo: 21000 log-probabilities of the prompt are too many; at most 16384 are possible.",
        "echo",
    )
    opened(inbox, tokens=[5] * 8192, echo=True, logprobs=1)
    opened(inbox, tokens=[5] * 20_000, echo=True)


def test_a_continued_request(inbox: Inbox, bpe: Model) -> None:
    """The delivered tokens follow the prompt, count as generated, and are not sent again."""
    fox = bpe.tokenize(" fox", add_special=False, parse_special=False)
    sequence, accepted = opened(inbox, text="the", delivered=fox, max_tokens=50)
    assert sequence.tokens[sequence.n_prompt :] == fox
    assert (accepted.n_prompt, sequence.n_generated) == (sequence.n_prompt, len(fox))
    assert refused(inbox, text="the", delivered=[bpe.n_vocab]).code == "invalid_prompt"


def test_a_continued_request_may_have_ended(inbox: Inbox, bpe: Model) -> None:
    """The last delivered token was the last allowed one, or completed a stop string."""
    fox = bpe.tokenize(" fox", add_special=False, parse_special=False)
    assert opened(inbox, text="the", delivered=fox, max_tokens=len(fox))[0].finish_reason == "length"
    assert opened(inbox, text="the", delivered=fox, stop=["fox"])[0].finish_reason == "stop"


def test_bare_tokens(inbox: Inbox, bpe: Model) -> None:
    """Ids are used as they are: no BOS is added, and control tokens are allowed."""
    ids = [bpe.n_vocab - 1, 0, bpe.eos]
    sequence, accepted = opened(inbox, tokens=ids)
    assert sequence.tokens == ids
    assert accepted.n_prompt == 3


@pytest.mark.parametrize(("asked", "expected"), [(None, 90), (1, 1), (89, 89), (90, 90), (91, 90), (2**31 - 1, 90)])
def test_max_tokens(inbox: Inbox, asked: int | None, expected: int) -> None:
    """The answer may have the requested length, within what the prompt leaves of the stream's limit."""
    sequence, accepted = opened(inbox, tokens=[1] * 10, max_tokens=asked)
    assert sequence.max_tokens == accepted.max_tokens == expected


def test_the_longest_prompt(inbox: Inbox) -> None:
    """A prompt that leaves room for one token is run."""
    assert opened(inbox, tokens=[1] * 99)[1].max_tokens == 1


@pytest.mark.parametrize("n", [100, 101, 5000])
def test_too_long_a_prompt(inbox: Inbox, n: int) -> None:
    """A prompt that leaves no room is refused, with both counts."""
    assert refused(inbox, tokens=[1] * n) == Rejected(
        "id",
        "context_length_exceeded",
        f"This model's maximum context length is 100 tokens, the answer included; the prompt has {n}.",
        counts={"n_prompt_tokens": n, "n_ctx": 100},
    )


def test_too_long_a_text(inbox: Inbox) -> None:
    """A text is refused likewise, its tokens counted with BOS, and a chat with everything that the template adds."""
    assert "the prompt has 201." in refused(inbox, text="x" * 200).message
    messages = [{"role": "user", "content": "x" * 200}]
    assert refused(inbox, messages=messages).code == "context_length_exceeded"


def test_far_too_long_a_text(inbox: Inbox, bpe: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes are refused by their size alone, never tokenized."""
    monkeypatch.setattr(bpe, "tokenize", None)
    for fields in (
        {"text": "the fox " * 200_000},
        {"messages": [{"role": "user", "content": "x" * 500_000}, {"role": "user", "content": "y" * 500_000}]},
    ):
        result = refused(inbox, **fields)
        assert result.code == "context_length_exceeded"
        assert "the prompt has at least " in result.message
        assert "maximum context length is 100 tokens" in result.message


def test_refusing_by_size_refuses_nothing_that_fits(bpe: Model) -> None:
    """A text of the longest tokens that just fits is not refused by its size."""
    word = max((bpe.piece(t).decode() for t in range(256, bpe.n_vocab)), key=len)
    n = SHALLOW_BYTES // len(word) + 1
    ids = bpe.tokenize(word * n, add_special=True, parse_special=False)
    assert opened(Inbox(bpe, n_ctx_seq=len(ids) + 1), text=word * n)[1].n_prompt == len(ids)
    assert refused(Inbox(bpe, n_ctx_seq=len(ids)), text=word * n).code == "context_length_exceeded"


@pytest.mark.parametrize("bad", [-1, 10**6, 2**31, 2**40, -(2**40)])
def test_token_ids_out_of_range(inbox: Inbox, bpe: Model, bad: int) -> None:
    """An id outside the vocabulary is refused by name: in C it would abort the process."""
    result = refused(inbox, tokens=[1, bad, 2])
    assert result == Rejected("id", "invalid_prompt", f"no token {bad} in a vocabulary of {bpe.n_vocab}")
    assert refused(inbox, tokens=[bpe.n_vocab]).code == "invalid_prompt"


def test_an_empty_prompt(write: Any, inbox: Inbox) -> None:
    """A prompt without tokens is refused; BOS alone is enough."""
    assert refused(inbox, tokens=[]) == Rejected("id", "invalid_prompt", "The prompt has no tokens.")
    assert refused(inbox).code == "invalid_prompt"
    assert opened(inbox, text="")[1].n_prompt == 1
    no_bos = Inbox(Model(write("inbox-no-bos", add_bos=False)), n_ctx_seq=100)
    assert refused(no_bos, text="").message == "The prompt has no tokens."


def test_a_template_that_refuses(bpe: Model) -> None:
    """The template's own message reaches the caller."""
    inbox = Inbox(With(bpe, "{{ raise_exception('no system role') }}"), n_ctx_seq=100)  # type: ignore[arg-type]
    result = refused(inbox, messages=[{"role": "system", "content": "x"}])
    assert result.code == "invalid_prompt"
    assert "no system role" in result.message


def test_stop_strings(inbox: Inbox, bpe: Model) -> None:
    """The caller's stop strings apply, and also the template's end if the model was not trained with it."""
    sequence, _ = opened(inbox, text="x", stop=["fox"])
    assert sequence.text.push(b"a fox b") == "a "
    given = Inbox(bpe, n_ctx_seq=100, chat_template="vicuna")
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"messages": [{"role": "user", "content": "x"}], "stop": ["fox"]}, ["a ", ""]),
        ({"messages": [{"role": "user", "content": "x"}]}, ["a fox ", ""]),
        ({"text": "x"}, ["a fox ", "</s>"]),
    ]
    for fields, expected in cases:
        sequence, _ = opened(given, **fields)
        assert [sequence.text.push(b"a fox "), sequence.text.push(b"</s>")] == expected


def test_stop_tokens(inbox: Inbox, bpe: Model) -> None:
    """Those that the request names, and control tokens that a stop string spells; their text is part of the answer if
    it is to have its stop string."""
    (x,) = bpe.tokenize("x", add_special=False, parse_special=False)
    (end,) = bpe.control_ids["<|im_end|>"]
    for shows, texts in ((False, {x: b"", end: b""}), (True, {x: b"x", end: b"<|im_end|>"})):
        constraints = Constraints(stop_token_ids=(x,), include_stop_str_in_output=shows)
        sequence, _ = opened(inbox, text="the", stop=["<|im_end|>", "fox"], constraints=constraints)
        assert sequence.stop_tokens == texts
        assert sequence.text.push(b"a fox b") == ("a fox" if shows else "a ")


def test_stop_tokens_of_another_vocabulary(inbox: Inbox, bpe: Model) -> None:
    """They are refused by the field's name."""
    for token in (bpe.n_vocab, -1, 2**31 - 1):
        result = refused(inbox, text="the", constraints=Constraints(stop_token_ids=(token,)))
        assert (result.code, result.param) == ("invalid_request", "stop_token_ids")


def test_min_tokens(inbox: Inbox, bpe: Model) -> None:
    """Neither an end token nor one of the request's is drawn before, and no stop string counts."""
    (x,) = bpe.tokenize("x", add_special=False, parse_special=False)
    constraints = Constraints(min_tokens=2, stop_token_ids=(x,))
    result = inbox.open(submit(text="the", stop=["fox"], sampling=GREEDY, constraints=constraints), now=5.0)
    assert not isinstance(result, Rejected)
    sequence, sampler, _ = result
    candidates = Candidates(bpe.n_vocab)
    drawn = [sampler.draw(preferring(bpe, *bpe.end_tokens, x), candidates) for _ in range(3)]
    assert not bpe.end_tokens.union([x]).intersection(drawn[:2]) and drawn[2] in bpe.end_tokens | {x}
    assert [sequence.text.push(b"fox") for _ in range(3)] == ["fox", "fox", ""]
    sampler.close()


def test_control_tokens_in_the_text(inbox: Inbox, bpe: Model) -> None:
    """Delivered ones are a part of it as the vocabulary spells them, where that is asked for."""
    delivered = [bpe.control_ids["<|im_start|>"][0]]
    for skips, expected in ((True, None), (False, "stop")):
        constraints = Constraints(skip_special_tokens=skips)
        sequence, _ = opened(inbox, text="the", delivered=delivered, stop=["start|"], constraints=constraints)
        assert (sequence.shows_special, sequence.finish_reason) == (not skips, expected)


def test_bad_words(inbox: Inbox, bpe: Model) -> None:
    """No token that would complete one, whether it begins the answer or follows a space; whole tokens never."""
    words = {word: bpe.tokenize(word, add_special=False, parse_special=False) for word in (" fox", "story", "zq")}
    assert [len(ids) for ids in words.values()] == [1, 1, 2]
    result = inbox.open(submit(text="the", sampling=GREEDY, constraints=Constraints(bad_words=("fox", "zq"))), now=5.0)
    assert not isinstance(result, Rejected)
    _, sampler, _ = result
    candidates = Candidates(bpe.n_vocab)
    z, q = words["zq"]
    wanted = [words[" fox"][0], words["story"][0], q, z, q, q]
    drawn = [sampler.draw(preferring(bpe, token), candidates) for token in wanted]
    assert [token == wish for token, wish in zip(drawn, wanted, strict=True)] == [False, True, True, True, False, True]
    sampler.close()


def test_bad_words_that_leave_nothing(bpe: Model, inbox: Inbox) -> None:
    """A request that forbids every token is refused."""
    every = tuple((token,) for token in range(bpe.n_vocab))
    result = refused(inbox, text="the", constraints=Constraints(bad_words=every))
    assert (result.code, result.param) == ("invalid_request", "bad_words")
    assert refused(inbox, text="the", constraints=Constraints(bad_words=((bpe.n_vocab,),))).param == "bad_words"


def test_the_field_at_fault_is_named(inbox: Inbox, bpe: Model) -> None:
    """Of several with token ids it is the one with an id that is none."""
    fields: dict[str, Any] = {
        "sampling": Sampling(seed=1, logit_bias=((5, 1.0),)),
        "constraints": Constraints(bad_words=("fox",), stop_token_ids=(5,)),
    }
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("logit_bias", {"sampling": Sampling(seed=1, logit_bias=((bpe.n_vocab, 1.0),))}),
        ("bad_words", {"constraints": Constraints(bad_words=((5, bpe.n_vocab),), stop_token_ids=(5,))}),
        ("stop_token_ids", {"constraints": Constraints(bad_words=("fox",), stop_token_ids=(bpe.n_vocab,))}),
    ]
    for name, field in wrong:
        assert refused(inbox, text="the", **{**fields, **field}).param == name
    opened(inbox, text="the", **fields)


def test_a_truncated_prompt(inbox: Inbox, bpe: Model) -> None:
    """Its last n tokens; with -1 as many as leave room for the answer, which is half of the context at most. A prompt
    that is longer than the context is cut first."""
    ids = list(range(5, 255))
    assert opened(inbox, tokens=ids, prompting=Prompting(truncate_prompt_tokens=7))[0].tokens == ids[-7:]
    assert opened(inbox, tokens=ids[:3], prompting=Prompting(truncate_prompt_tokens=7))[0].tokens == ids[:3]
    fits = Prompting(truncate_prompt_tokens=-1)
    assert opened(inbox, tokens=ids, prompting=fits, max_tokens=30)[1] == Accepted("id", n_prompt=70, max_tokens=30)
    assert opened(inbox, tokens=ids, prompting=fits)[1] == Accepted("id", n_prompt=99, max_tokens=1)
    assert opened(inbox, tokens=ids, prompting=fits, max_tokens=1000)[1] == Accepted("id", n_prompt=50, max_tokens=50)
    assert opened(inbox, text="x" * 20_000, prompting=fits)[0].n_prompt == 99
    too_many = Prompting(truncate_prompt_tokens=100)
    assert refused(inbox, tokens=ids, prompting=too_many).code == "context_length_exceeded"


def test_what_ends_and_reads_it(inbox: Inbox) -> None:
    """The time limit in seconds, and whether the prefix cache may be used."""
    sequence, _ = opened(inbox, text="the")
    assert (sequence.max_s, sequence.takes_cached) == (0, True)
    fields = {"constraints": Constraints(t_max_predict_ms=250), "prompting": Prompting(cache_prompt=False)}
    sequence, _ = opened(inbox, text="the", **fields)
    assert (sequence.max_s, sequence.takes_cached) == (0.25, False)


def test_tenant_scope_and_pace(inbox: Inbox, bpe: Model) -> None:
    """Tenant and pace are the request's; prompts are shared within a tenant, or by all if configured."""
    sequence, _ = opened(inbox, text="the", tenant="a", pace=2.5)
    assert (sequence.tenant, sequence.scope, sequence.pace) == ("a", "a", 2.5)
    sequence, _ = opened(Inbox(bpe, n_ctx_seq=100, is_shared=True), text="the", tenant="a")
    assert (sequence.tenant, sequence.scope, sequence.pace) == ("a", "", None)


def test_samplers_that_cannot_be_resumed(inbox: Inbox) -> None:
    """A request with mirostat or adaptive-p that has begun can't continue here; one that has not begun, or has ended,
    is accepted."""
    for sampling in (Sampling(seed=1, mirostat=1), Sampling(seed=1, mirostat=2), Sampling(seed=1, adaptive_target=0.5)):
        assert refused(inbox, text="the", sampling=sampling, delivered=[1, 2]).code == "not_resumable"
        assert opened(inbox, text="the", sampling=sampling)[0].n_generated == 0
        assert opened(inbox, text="the", sampling=sampling, delivered=[1, 2], max_tokens=2)[0].finish_reason == "length"


@pytest.mark.parametrize(
    "grammar", ["root ::= (", "x ::= [a]", "root ::= root [a]", "root ::= [a]{5000}", "((((" * 5000]
)
def test_an_invalid_grammar(inbox: Inbox, grammar: str) -> None:
    """It is refused with its field's name before anything is computed."""
    result = refused(inbox, text="the", sampling=Sampling(seed=1, grammar=grammar))
    assert (result.code, result.param) == ("invalid_request", "grammar")
    assert result.message.startswith("grammar: ")


def test_invalid_biases(inbox: Inbox, bpe: Model) -> None:
    """Ids outside the vocabulary, and a ban on all tokens, are refused."""
    n = bpe.n_vocab
    for biases in (((n, 1.0),), ((2**31 - 1, None),), tuple((t, None) for t in range(n))):
        result = refused(inbox, text="the", sampling=Sampling(seed=1, logit_bias=biases))
        assert (result.code, result.param) == ("invalid_request", "logit_bias")
    but_ends = tuple((t, None) for t in range(n) if t not in bpe.end_tokens)
    assert opened(inbox, text="the", sampling=Sampling(seed=1, logit_bias=but_ends))
    assert refused(inbox, text="the", sampling=Sampling(seed=1, logit_bias=but_ends), ignore_eos=True)


def test_what_is_quick_to_prepare(inbox: Inbox) -> None:
    """A few kilobytes of text, including all that a template adds to each message; a grammar never is, and a structure
    once it is compiled."""
    one = {"role": "user", "content": "x"}
    asked: list[tuple[dict[str, Any], bool]] = [
        ({"text": "x" * 8000}, True),
        ({"text": "x" * 9000}, False),
        ({"tokens": [1] * 9000}, True),
        ({"messages": [one] * 100}, True),
        ({"messages": [one] * 2048}, False),
        ({"text": "x", "sampling": Sampling(seed=1, grammar="root ::= [a-z]")}, False),
        ({"text": "x", "sampling": Sampling(seed=1, logit_bias=(("x" * 64, 1.0),) * 128)}, False),
        ({"text": "x", "constraints": Constraints(bad_words=("x" * 100,) * 100)}, False),
        ({"text": "x", "constraints": Constraints(bad_words=("x" * 100,))}, True),
    ]
    for fields, is_quick in asked:
        assert inbox.is_quick(submit(**fields)) == is_quick
    structured = submit(text="x", structure=Structure("choice", '["a"]', "guided_choice"))
    assert not inbox.is_quick(structured)
    assert inbox.compile(structured) == structured
    assert inbox.is_quick(structured)
    assert inbox.is_quick(replace(structured, structure=Structure("choice", '["a"]', "structured_outputs")))
    assert not inbox.is_quick(replace(structured, text="x" * 9000))


def test_an_invalid_structure(inbox: Inbox) -> None:
    """It is refused with its field's name, whether it is new or was to be compiled only."""
    bad = Structure("json", '{"not":{}}', "guided_json")
    expected = Rejected("id", "invalid_request", "guided_json: 'not' can't be enforced", "guided_json")
    assert refused(inbox, text="the", structure=bad) == expected
    assert inbox.compile(submit(text="the", structure=bad)) == expected
    assert inbox.begin(submit(tokens=[1], structure=bad), 0.0) == expected
