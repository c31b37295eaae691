"""Draft tokens on the real llama.cpp: whether right or wrong, tokens, text and end are those without drafts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from service.engine.engine import Engine
from service.engine.llama.context import Context
from service.engine.llama.model import Model
from service.engine.sequences.sequence import Sequence as Seq
from service.engine.speculation.costs import DecodeCost
from service.engine.speculation.drafter import Drafts
from service.engine.tuning import Tuning
from tests.engine import tiny_layers
from tests.engine.conftest import MakeContext
from tests.engine.test_engine import (
    GREEDY,
    WARM,
    Answer,
    Driver,
    Fixed,
    Request,
    Slow,
    each_alone,
    essence,
    exact,
    mixed,
)

__all__ = ["model"]
from tests.engine.test_engine import model


class Free(DecodeCost):
    """As if a decode took the same time for any number of rows."""

    def of(self, n_rows: int) -> float:
        return 0.02


def real_drafts(model: Model) -> Drafts:
    """The product's own draft tokens, planned if there is any chance, however fast the model is."""
    return Drafts(model.end_tokens, Free(), min_seconds=0.0)


class Oracle(Drafts):
    """Knows the answers: a random number of right draft tokens, and after them a random number of wrong ones."""

    def __init__(self, answers: dict[str, Answer], right: tuple[int, int] = (0, 5), wrong: tuple[int, int] = (0, 3)):
        super().__init__((), Free())
        self._answers, self._right, self._wrong, self._random = answers, right, wrong, random.Random(1)

    def draft(self, sequences: list[Seq], n_most: int) -> list[tuple[int, ...]]:
        drafts = []
        for s in sequences:
            known = self._answers[s.id].tokens[s.n_generated :][: self._random.randint(*self._right)]
            wrong = [3 + self._random.randrange(200) for _ in range(self._random.randint(*self._wrong))]
            left = max(s.max_tokens - s.n_generated - 1, 0)
            drafts.append(tuple([*known, *wrong][: min(left, n_most)]))
            n_most -= len(drafts[-1])
        return drafts


def counts(driver: Driver) -> tuple[int, int]:
    """Accepted and rejected drafts."""
    n_accepted = sum(step.n_accepted for step in driver.steps)
    return n_accepted, sum(step.n_drafted for step in driver.steps) - n_accepted


def run(model: Model, context: Context, drafts: Drafts, *requests: Request, **tuning: Any) -> Driver:
    driver = Driver(model, context, Tuning(drafts=drafts, **tuning))
    driver.submit(*requests)
    driver.run()
    return driver


@pytest.mark.parametrize("kv_type", ["bf16", "q8_0"])
def test_together_as_without(model: Model, make_context: MakeContext, kv_type: str) -> None:
    """16 mixed requests at once, each with right and wrong drafts in every decode."""
    context = exact(make_context, model, kv_type=kv_type)
    alone = each_alone(model, context, mixed())
    driver = run(model, context, Oracle(alone), *mixed())
    ids = [r.id for r in mixed()]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert min(counts(driver)) > 100
    n_steps = len(driver.steps)
    assert n_steps < max(len(a.tokens) for a in alone.values()), "it takes fewer steps than tokens"


def test_alone_as_without(model: Model, make_context: MakeContext) -> None:
    """One stream at a time; the cells of wrong drafts are free at once if no other sequence's cells come after them."""
    context = exact(make_context, model)
    alone = each_alone(model, context, mixed())
    driver = Driver(model, context, Tuning(drafts=Oracle(alone), shares=False))
    for r in mixed():
        driver.submit(r)
        while not driver.engine.is_idle:
            driver.step()
            assert driver.engine.scheduler.cells.n_dead == 0
    ids = [r.id for r in mixed()]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert min(counts(driver)) > 100


def test_log_probabilities_as_without(model: Model, make_context: MakeContext) -> None:
    """A token that was decoded as a draft has the log-probabilities that it has without drafts."""
    context = exact(make_context, model)
    requests = [replace(r, n_logprobs=2) for r in mixed()]
    alone = each_alone(model, context, requests)
    driver = run(model, context, Oracle(alone), *requests)
    assert {id: answer.logprobs for id, answer in driver.answers.items()} == {
        id: answer.logprobs for id, answer in alone.items()
    }
    assert min(counts(driver)) > 100


def repeating() -> list[Request]:
    """Repetitive prompts, for answers that may repeat, too."""
    prompts = ["the fox and " * 20, "Hello world. Hello world. Hello world. ", "a b c d " * 12]
    cool = structs.replace(WARM, temperature=0.2)
    samplings = [GREEDY, GREEDY, cool]
    return [
        Request(f"r{i}", prompt, sampling, max_tokens=80, ignore_eos=True)
        for i, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
    ]


def test_with_real_drafts_as_without(model: Model, make_context: MakeContext) -> None:
    """The product as it is: drafts from the text so far, for one stream and for three."""
    context = exact(make_context, model)
    alone = each_alone(model, context, repeating())
    ids = [r.id for r in repeating()]
    together = run(model, context, real_drafts(model), *repeating())
    assert essence(together.answers, ids) == essence(alone, ids)
    single = Driver(model, context, Tuning(drafts=real_drafts(model)))
    for r in repeating():
        single.submit(r)
        single.run()
    assert essence(single.answers, ids) == essence(alone, ids)
    assert counts(together)[0] > 20 and counts(single)[0] > 20


def test_preempted_as_without(model: Model, make_context: MakeContext) -> None:
    """Drafts take no cell that a sequence needs, and a preempted one continues with the same token."""
    requests = [replace(r, max_tokens=r.max_tokens + 60, ignore_eos=True) for r in mixed()]
    alone = each_alone(model, exact(make_context, model), requests)
    driver = run(model, exact(make_context, model, n_ctx=256), Oracle(alone), *requests, chunker=Fixed(16))
    assert sum(s.n_preempted for s in driver.steps) > 5
    ids = [r.id for r in requests]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert min(counts(driver)) > 20


def test_arrivals_and_cancels_in_between(model: Model, make_context: MakeContext) -> None:
    """Requests come and leave while others draft, and share their prefixes: their texts are as without drafts."""
    context = exact(make_context, model)
    requests = [replace(r, prompt="the fox and the story " * 10 + r.prompt, ignore_eos=True) for r in mixed()]
    alone = each_alone(model, context, requests)
    oracle = Oracle(alone | {id + "again": answer for id, answer in alone.items()})
    driver = Driver(model, context, Tuning(drafts=oracle, chunker=Fixed(16)))
    for i, r in enumerate(requests):
        driver.submit(r)
        driver.step()
        driver.step()
        if i % 4 == 3:
            driver.engine.cancel(requests[i - 2].id)
    driver.run()
    ids = [r.id for r in requests if driver.answers[r.id].reason != "cancelled"]
    assert len(ids) >= 12 and essence(driver.answers, ids) == essence(alone, ids)
    assert sum(f.n_cached for a in driver.answers.values() if (f := a.finish)) > 100
    again = [replace(r, id=r.id + "again") for r in requests]  # their kept prefixes hold their own tokens only
    driver.submit(*again)
    driver.run()
    assert [*essence(driver.answers, [r.id for r in again]).values()] == [
        *essence(alone, [r.id for r in requests]).values()
    ]


def test_ends_within_accepted_drafts(model: Model, make_context: MakeContext) -> None:
    """Within many right drafts the answer ends where it would have: at max_tokens, a stop string, an end token."""
    context = exact(make_context, model)
    plain = Request("plain", "Hello world", WARM, max_tokens=60, ignore_eos=True)
    text = each_alone(model, context, [plain])["plain"].text
    stop = text[len(text) // 2 :][:3]
    requests = [
        replace(plain, id="length", max_tokens=23),
        replace(plain, id="stop", stop=(stop,)),
        *(Request(f"end{i}", "x", structs.replace(WARM, seed=i, temperature=3.0), max_tokens=400) for i in range(4)),
    ]
    alone = each_alone(model, context, requests)
    known = dict(alone) | {"stop": each_alone(model, context, [replace(plain, id="stop")])["stop"]}
    driver = run(model, context, Oracle(known, right=(15, 15), wrong=(0, 0)), *requests)
    ids = [r.id for r in requests]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert {alone[id].reason for id in ids} == {"length", "stop"}
    sequences = [driver.sequences[id] for id in ids]
    assert all(s.n_past == len(s.tokens) for s in sequences[2:] if s.finish_reason == "stop"), "an end has no cell"


def test_grammar_as_without(model: Model, make_context: MakeContext) -> None:
    """A grammar advances by the drawn tokens only, however wrong the drafts."""
    context = exact(make_context, model)
    sampling = structs.replace(WARM, grammar='root ::= ("ab" | "cd" | [0-9])+ "."')
    requests = [Request(f"g{i}", "the fox", structs.replace(sampling, seed=i), max_tokens=30) for i in range(4)]
    alone = each_alone(model, context, requests)
    driver = run(model, context, Oracle(alone), *requests)
    ids = [r.id for r in requests]
    assert essence(driver.answers, ids) == essence(alone, ids)
    assert min(counts(driver)) > 10


def test_counts_of_a_step(model: Model, make_context: MakeContext) -> None:
    """A step counts all rows, the drafts and the accepted ones; each token is its own delta."""
    context = exact(make_context, model)
    request = Request("r", "Hello world", GREEDY, max_tokens=30, ignore_eos=True)
    alone = each_alone(model, context, [request])
    driver = Driver(model, context, Tuning(drafts=Oracle(alone, right=(3, 3), wrong=(2, 2))))
    driver.submit(request)
    driver.step()
    step = driver.step()
    assert (step.n_batch, step.n_prefill, step.n_drafted, step.n_accepted) == (6, 0, 5, 3)
    assert driver.sequences["r"].n_generated == 5
    assert [len(tokens) for _, tokens, _ in step.deltas] == alone["r"].cuts[1:5] == [1, 1, 1, 1]
    assert step.kv_used == driver.sequences["r"].n_past


def test_counts_with_a_late_draw(model: Model, make_context: MakeContext) -> None:
    """Drafts after a token that came late are lost: no step has more accepted drafts than drafts."""
    context = exact(make_context, model)
    request = Request("r", "Hello world", GREEDY, max_tokens=30, ignore_eos=True)
    alone = each_alone(model, context, [request])
    driver = Driver(model, context, Tuning(drafts=Oracle(alone, right=(3, 3), wrong=(0, 0))))
    sampler = Slow()
    driver.sequences["r"] = request.sequence(model)
    driver.engine.submit(driver.sequences["r"], sampler)
    while not driver.engine.is_idle:
        sampler.may_draw.clear()
        driver.step()
        sampler.may_draw.set()
        driver.step()
    driver.engine.close()
    assert driver.answers["r"].tokens == alone["r"].tokens
    assert any(step.n_drafted for step in driver.steps)
    assert [step for step in driver.steps if step.n_accepted > step.n_drafted] == []


def test_no_drafts_with_a_prompt(model: Model, make_context: MakeContext) -> None:
    """A step with a chunk of prefill decodes the known tokens, and nothing more."""
    context = exact(make_context, model)
    requests = [
        Request("short", "x", GREEDY, max_tokens=60, ignore_eos=True),
        Request("long", "Hello fox " * 60, GREEDY, max_tokens=5),
    ]
    alone = each_alone(model, context, requests)
    driver = run(model, context, Oracle(alone, wrong=(1, 1)), *requests, chunker=Fixed(16))
    assert any(step.n_drafted for step in driver.steps)
    assert not any(step.n_drafted for step in driver.steps if step.n_prefill)


@pytest.mark.parametrize("arch", [arch for arch in tiny_layers.ARCHS if arch != "llama"])
def test_no_drafts_where_memory_cannot_be_cut(write: Callable[..., Path], make_context: MakeContext, arch: str) -> None:
    """With a window or a state there are no drafts: a wrong one could not be undone."""
    model = Model(write(f"drafting-{arch}", arch=arch, endless=True))
    driver = run(model, make_context(model), real_drafts(model), *repeating())
    assert sum(step.n_drafted for step in driver.steps) == 0
    assert {driver.answers[r.id].reason for r in repeating()} == {"length"}


def test_without_order(model: Model, make_context: MakeContext) -> None:
    """If cells are reused at once (f16), every answer still has its length, and drafts are accepted."""
    driver = run(model, make_context(model), real_drafts(model), *repeating())
    assert all(len(driver.answers[r.id].tokens) <= r.max_tokens for r in repeating())
    assert all(driver.sequences[r.id].n_generated == r.max_tokens for r in repeating())
    assert counts(driver)[0] > 20


def test_close(model: Model, make_context: MakeContext) -> None:
    """An engine can be closed twice."""
    engine = Engine(model, make_context(model), n_threads=2)
    engine.close()
    engine.close()
