"""Prompts that are repeated with log-probabilities, on the real llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from service.engine.engine import Engine
from service.engine.llama.context import Context
from service.engine.llama.model import Model
from service.engine.prompts.inbox import Inbox
from service.engine.sampling.logprobs import Distribution, Ranked, named
from service.engine.tuning import Tuning
from service.protocol.frames import Rejected, Step, Submit
from service.protocol.said import Said, TokenLogprob, text_of
from service.protocol.sampling import Sampling
from tests.engine.conftest import MakeContext
from tests.engine.test_engine import Fixed, exact

GREEDY = Sampling(seed=0, temperature=0.0)
PROMPT = "the fox and the story of Hello world ✨ " * 6


@dataclass
class Heard:
    """What the steps reported of one request."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    n_cached: int = 0
    n_generated: int = 0


class Running:
    """An engine and what it reported."""

    def __init__(self, model: Model, context: Context, tuning: Tuning | None = None) -> None:
        self.engine = Engine(model, context, tuning)
        self.inbox = Inbox(model, n_ctx_seq=1000)
        self.heard: dict[str, Heard] = {}

    def submit(self, id: str, **fields: Any) -> None:
        defaults: dict[str, Any] = {"sampling": GREEDY, "text": PROMPT, "echo": True, "logprobs": 1, "max_tokens": 3}
        opened = self.inbox.open(Submit(id=id, **defaults | fields), 0.0)
        assert not isinstance(opened, Rejected), opened
        self.heard[id] = Heard()
        self.engine.submit(*opened[:2])

    def step(self) -> Step:
        step = self.engine.step()
        for id, tokens, said in step.deltas:
            heard = self.heard[id]
            heard.tokens += tokens
            heard.text += text_of(said)
            heard.logprobs += said.logprobs if isinstance(said, Said) else []
        for finish in step.finished:
            self.heard[finish.id].n_cached, self.heard[finish.id].n_generated = finish.n_cached, finish.n_generated
        return step

    def run(self) -> dict[str, Heard]:
        while not self.engine.is_idle:
            self.step()
        return self.heard


def reference(model: Model, context: Context, tokens: list[int], n: int) -> list[TokenLogprob]:
    """Those of a prompt, from one decode for each token."""
    context.clear()
    found, decoded = [named(model, Ranked(tokens[0], None, ()), 0)], ""
    for at, token in enumerate(tokens[:-1]):
        (index,) = context.decode([(0, at, [token], 1)])
        decoded += model.piece(token).decode("utf-8", "replace")
        ranked = Distribution(context.logits(index), n).of(tokens[at + 1])
        found.append(named(model, ranked, len(decoded)))
    context.clear()
    return found


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_a_prompt_and_its_answer(bpe: Model, make_context: MakeContext, max_tokens: int) -> None:
    """Both texts together, with one entry for each token: the prompt's are those of its tokens decoded one by one."""
    context = exact(make_context, bpe, n_seq=2)
    tokens = bpe.tokenize("the fox and", add_special=True, parse_special=False)
    running = Running(bpe, context)
    running.submit("a", text=None, tokens=tokens, max_tokens=max_tokens, ignore_eos=True, logprobs=2)
    heard = running.run()["a"]
    assert len(heard.tokens) == heard.n_generated == max_tokens
    assert heard.text.startswith("the fox and") and (max_tokens or heard.text == "the fox and")
    assert len(heard.logprobs) == len(tokens) + max_tokens
    assert heard.logprobs[: len(tokens)] == reference(bpe, context, tokens, 2)
    assert [one.offset for one in heard.logprobs] == sorted(one.offset for one in heard.logprobs)


def test_an_answer_that_ends_at_once(bpe: Model, make_context: MakeContext) -> None:
    """The end token has its entry, too: lm-eval leaves out the last one as the generated token's."""
    end = next(iter(bpe.end_tokens))
    running = Running(bpe, exact(make_context, bpe))
    running.submit("a", text="the fox", max_tokens=1, sampling=replace(GREEDY, logit_bias=((end, 100.0),)))
    heard = running.run()["a"]
    assert (heard.tokens, heard.text, heard.n_generated) == ([], "the fox", 0)
    n_prompt = len(bpe.tokenize("the fox", add_special=True, parse_special=False))
    assert len(heard.logprobs) == n_prompt + 1
    assert (heard.logprobs[-1].token, heard.logprobs[-1].piece) == (bpe.text_of(end), None)


def test_with_a_grammar(bpe: Model, make_context: MakeContext) -> None:
    """An answer that is sampled on threads of its own has its log-probabilities after the prompt's."""
    running = Running(bpe, exact(make_context, bpe))
    running.submit("a", text="the", sampling=replace(GREEDY, grammar='root ::= "fox" "xxxx" "x"*'), max_tokens=4)
    heard = running.run()["a"]
    n_prompt = len(bpe.tokenize("the", add_special=True, parse_special=False))
    assert heard.text.startswith("thefox")
    assert [one.piece for one in heard.logprobs[n_prompt:]] == [bpe.piece(token) for token in heard.tokens]


def test_among_others(bpe: Model, make_context: MakeContext) -> None:
    """In chunks, beside running streams and other such prompts, with few outputs in a batch, they are the same."""
    alone = Running(bpe, exact(make_context, bpe))
    alone.submit("a")
    expected = alone.run()["a"]
    n_prompt = len(bpe.tokenize(PROMPT, add_special=True, parse_special=False))
    context = exact(make_context, bpe, n_seq=4)
    assert n_prompt > 2 * context.n_outputs_max
    running = Running(bpe, context, Tuning(chunker=Fixed(50)))
    running.submit("other", text="x", echo=False, logprobs=None, max_tokens=60, ignore_eos=True)
    running.step()
    for id in "abc":
        running.submit(id)
    heard = running.run()
    assert [heard[id] for id in "abc"] == [expected] * 3
    assert len(expected.logprobs) >= n_prompt


def test_a_cached_prefix_is_not_used(bpe: Model, make_context: MakeContext) -> None:
    """Its tokens have to be computed for their logits; what they leave in the cache is used by others."""
    running = Running(bpe, exact(make_context, bpe))
    for id in ("first", "again"):
        running.submit(id)
        running.run()
    running.submit("plain", echo=False)
    heard = running.run()
    assert heard["again"] == heard["first"]
    assert heard["again"].n_cached == 0 < heard["plain"].n_cached


def test_preempted(bpe: Model, make_context: MakeContext) -> None:
    """One that lost its cells in the middle of its prompt continues with the token that it had reached."""
    alone = Running(bpe, exact(make_context, bpe))
    alone.submit("a")
    expected = alone.run()["a"]
    running = Running(bpe, exact(make_context, bpe), Tuning(chunker=Fixed(20), shares=False))
    running.submit("other", text="x", echo=False, logprobs=None, max_tokens=60, ignore_eos=True)
    running.step()
    running.submit("a")
    running.step()
    running.step()
    actions, youngest = running.engine.scheduler.give_way()
    assert youngest is not None and (youngest.id, youngest.n_past) == ("a", 0)
    running.engine._carry_out(actions)
    assert running.run()["a"] == expected


def test_continued(bpe: Model, make_context: MakeContext) -> None:
    """With delivered tokens the prompt is not repeated again; offsets go on after it."""
    whole = Running(bpe, exact(make_context, bpe))
    whole.submit("a", max_tokens=8, ignore_eos=True)
    expected = whole.run()["a"]
    first = Running(bpe, exact(make_context, bpe))
    first.submit("a", max_tokens=8, ignore_eos=True)
    while not first.heard["a"].tokens:
        first.step()
    before = first.heard["a"]
    rest = Running(bpe, exact(make_context, bpe))
    rest.submit("a", max_tokens=8, ignore_eos=True, delivered=before.tokens)
    after = rest.run()["a"]
    assert before.text + after.text == expected.text
    assert before.tokens + after.tokens == expected.tokens
    assert before.logprobs + after.logprobs == expected.logprobs


def test_without_log_probabilities(spm: Model, make_context: MakeContext) -> None:
    """The prompt's text alone, as it was written, whatever the tokenizer puts before it."""
    running = Running(spm, exact(make_context, spm))
    running.submit("a", text="the fox", logprobs=None)
    running.submit("b", text="the fox", logprobs=None, echo=False)
    heard = running.run()
    assert heard["a"].text == "the fox" + heard["b"].text
    assert heard["a"].logprobs == []
