"""The loop on the real llama.cpp: whatever else runs, a sequence's tokens, text and end are those that it has alone."""

from __future__ import annotations

import codecs
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from service.engine.engine import Engine
from service.engine.host.threads import Threads
from service.engine.kv.memory import Memory
from service.engine.llama.context import Context, NoRoom
from service.engine.llama.model import LlamaError, Model
from service.engine.llama.sampler_chain import Candidates
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.chain import chain
from service.engine.sampling.sampler import Sampler, make
from service.engine.scheduling.prefill_chunks import PrefillChunker
from service.engine.sequences.sequence import Sequence as Seq
from service.engine.sequences.text import Text
from service.engine.token_sampling import QUICK_S
from service.engine.tuning import Tuning
from service.protocol.frames import Finish, Rejected, Step
from service.protocol.said import TokenLogprob, text_of
from service.protocol.sampling import Sampling
from tests.engine.conftest import MakeContext
from tests.patience import PATIENCE_S

STARTER = Path(__file__).parents[2] / "service" / "starter"
GREEDY = Sampling(seed=0, temperature=0.0)
WARM = Sampling(seed=11, temperature=1.2, top_k=0, top_p=1.0, min_p=0.0)


@dataclass(frozen=True)
class Request:
    """One generation, to be run alone and with others."""

    id: str
    prompt: str
    sampling: Sampling = GREEDY
    max_tokens: int = 40
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    n_logprobs: int | None = None

    def sequence(self, model: Model) -> Seq:
        tokens = model.tokenize(self.prompt, add_special=True, parse_special=True)
        return Seq(
            id=self.id,
            tokens=tokens,
            n_prompt=len(tokens),
            max_tokens=self.max_tokens,
            text=Text(self.stop),
            n_logprobs=self.n_logprobs,
        )

    def sampler(self, model: Model) -> Sampler | Argmax:
        return make(model, self.sampling, ignore_eos=self.ignore_eos)


@dataclass
class Answer:
    """What the steps reported of one generation."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    cuts: list[int] = field(default_factory=list)  # tokens in each delta
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def reason(self) -> str:
        assert self.finish is not None
        return self.finish.reason


class Driver:
    """An engine, the sequences submitted to it and everything that its steps reported."""

    def __init__(self, model: Model, context: Context, tuning: Tuning | None = None, **options: Any) -> None:
        self.model, self.context = model, context
        self.engine = Engine(model, context, tuning, **options)
        self.sequences: dict[str, Seq] = {}
        self.answers: dict[str, Answer] = defaultdict(Answer)
        self.steps: list[Step] = []

    def submit(self, *requests: Request) -> None:
        for r in requests:
            self.sequences[r.id] = r.sequence(self.model)
            self.engine.submit(self.sequences[r.id], r.sampler(self.model))

    def step(self) -> Step:
        step = self.engine.step()
        self.steps.append(step)
        for id, tokens, said in step.deltas:
            assert self.answers[id].finish is None, "nothing comes after the end"
            self.answers[id].tokens += tokens
            self.answers[id].text += text_of(said)
            self.answers[id].logprobs += [] if isinstance(said, str) else said.logprobs
            self.answers[id].cuts.append(len(tokens))
        for finish in step.finished:
            assert self.answers[finish.id].finish is None, "one end each"
            self.answers[finish.id].finish = finish
        assert step.kv_used <= self.context.n_ctx
        return step

    def run(self, until: Callable[[], bool] | None = None) -> dict[str, Answer]:
        for _ in range(20_000):
            if self.engine.is_idle or (until is not None and until()):
                return self.answers
            self.step()
        raise AssertionError(f"never done: {self.engine!r}")


def run(model: Model, context: Context, *requests: Request, **options: Any) -> dict[str, Answer]:
    driver = Driver(model, context, **options)
    driver.submit(*requests)
    return driver.run()


class Fixed(PrefillChunker):
    """A fixed number of prompt tokens while streams run, however long that takes; alone as many as fit."""

    def __init__(self, n: int, n_batch: int = 10_000) -> None:
        super().__init__(target_s=1.0, n_batch=n_batch)
        self.n = n

    def size(self, n_decoding: int, n_reading: int, share: float | None = None) -> int:
        return self.n if n_decoding else self.n_batch


def replace_times(finish: Finish | None, other: Finish | None) -> Finish:
    """`other` with the durations and the sharing of `finish`: what differs between two runs."""
    assert finish is not None and other is not None
    return structs.replace(
        other,
        queue_s=finish.queue_s,
        prefill_s=finish.prefill_s,
        decode_s=finish.decode_s,
        n_cached=finish.n_cached,
    )


def essence(answers: dict[str, Answer], ids: Iterable[str]) -> dict[str, tuple[list[int], str, list[int], str]]:
    """Of each what its reader gets: the tokens, the text, where both are split into deltas, the end."""
    return {id: (a.tokens, a.text, a.cuts, a.reason) for id in ids for a in [answers[id]]}


def mixed() -> list[Request]:
    """16 requests that differ in everything that could leak from one to another."""
    prompts = [
        "Hello world",
        "the fox and the story",
        "x",
        "the " * 30,
        "<|im_start|>user\nfox<|im_end|>\n",
        "\U0001f98a",
    ]
    samplings = [
        GREEDY,
        WARM,
        structs.replace(WARM, seed=12, temperature=0.7, top_k=20),
        structs.replace(WARM, seed=13, top_p=0.8, frequency_penalty=0.5),
        structs.replace(GREEDY, repeat_penalty=1.5),
        structs.replace(WARM, seed=14, min_p=0.02, presence_penalty=1.0),
    ]
    requests = []
    for i in range(16):
        requests.append(
            Request(
                f"r{i}",
                prompts[i % len(prompts)] * (1 + i // 8),
                samplings[(i * 5 + i // 6) % len(samplings)],
                max_tokens=20 + 5 * (i % 7),
                stop=("e", "st") if i % 5 == 3 else (),
                ignore_eos=i % 3 == 0,
            )
        )
    return requests


@pytest.fixture(params=["bpe", "starter"])
def model(request: pytest.FixtureRequest) -> Model:
    """A tiny model and the embedded one; before that is trained, a tiny one of the other kind."""
    found = sorted(STARTER.glob("*.gguf"))
    if request.param == "starter" and found:
        return starter(found[0])
    model: Model = request.getfixturevalue("bpe" if request.param == "bpe" else "spm")
    return model


_starters: dict[Path, Model] = {}


def starter(path: Path) -> Model:
    if path not in _starters:
        _starters[path] = Model(path)
    return _starters[path]


def exact(make_context: MakeContext, model: Model, **options: Any) -> Context:
    """A context in which a sequence's logits do not depend on the rest of the batch (docs/exactness.md)."""
    settings: dict[str, Any] = {
        "n_ctx": 2048,
        "n_seq": 16,
        "kv_type": "bf16",
        "flash_attention": "on",
        "in_order": True,
    }
    settings |= options
    return make_context(model, **settings)


def each_alone(model: Model, context: Context, requests: Sequence[Request]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for r in requests:
        answers |= run(model, context, r)
    return answers


# --- alone and together


@pytest.mark.parametrize("kv_type", ["bf16", "q8_0"])
def test_together_as_alone(model: Model, make_context: MakeContext, kv_type: str) -> None:
    """16 mixed requests at once give the tokens, texts and ends that each gives alone."""
    context = exact(make_context, model, kv_type=kv_type)
    alone = each_alone(model, context, mixed())
    ids = [r.id for r in mixed()]
    assert essence(run(model, context, *mixed()), ids) == essence(alone, ids)
    assert essence(run(model, context, *mixed(), tuning=Tuning(chunker=Fixed(7))), ids) == essence(alone, ids)
    assert len({tuple(a.tokens) for a in alone.values()}) >= 12  # they do differ


def test_other_load_is_measured_at_rest(model: Model, make_context: MakeContext) -> None:
    """An idle engine keeps measuring other processes' load, so that its first step has the right number of threads."""

    class Watched(Threads):
        n_choices = 0

        def choose(self) -> int:
            self.n_choices += 1
            return super().choose()

    threads = Watched(1)
    engine = Engine(model, make_context(model), threads=threads)
    engine.rest()
    assert threads.n_choices == 1 and engine.is_idle
    Engine(model, make_context(model)).rest()  # a fixed number: there is nothing to measure


def test_with_more_threads_as_with_one(model: Model, make_context: MakeContext) -> None:
    """The number of threads makes no difference, either."""
    requests = mixed()[:4]
    one = run(model, exact(make_context, model), *requests)
    two = run(model, exact(make_context, model, n_threads=2), *requests)
    assert essence(two, [r.id for r in requests]) == essence(one, [r.id for r in requests])


def test_preempted_as_alone(model: Model, make_context: MakeContext) -> None:
    """Sequences that were preempted and computed again continue with the same token."""
    requests = [replace(r, max_tokens=r.max_tokens + 60, ignore_eos=True) for r in mixed()]
    alone = each_alone(model, exact(make_context, model), requests)
    driver = Driver(model, exact(make_context, model, n_ctx=256), tuning=Tuning(chunker=Fixed(16)))
    driver.submit(*requests)
    together = driver.run()
    assert sum(s.n_preempted for s in driver.steps) > 5
    ids = [r.id for r in requests]
    assert essence(together, ids) == essence(alone, ids)


def test_with_long_prompts_as_alone(model: Model, make_context: MakeContext) -> None:
    """Running sequences neither stop nor change while prompts of hundreds of tokens are prefilled in chunks."""
    short = [replace(r, ignore_eos=True, stop=(), max_tokens=50) for r in mixed()[:5]]
    long = [Request(f"long{i}", "Hello fox " * 100 + str(i), WARM, max_tokens=10) for i in range(2)]
    context = exact(make_context, model)
    alone = each_alone(model, context, [*short, *long])
    driver = Driver(model, context, tuning=Tuning(chunker=Fixed(16)))
    driver.submit(*short)
    driver.run(until=lambda: all(driver.sequences[r.id].n_generated >= 5 for r in short))
    driver.submit(*long)
    before = {r.id: driver.sequences[r.id].n_generated for r in short}
    while driver.sequences["long0"].is_prefilling and driver.sequences["r0"].n_generated < 50:
        step = driver.step()
        assert step.n_prefill <= 16
        for id in before:
            before[id] += 1
            assert driver.sequences[id].n_generated == before[id], "each running stream gets a token a step"
    together = driver.run()
    ids = [r.id for r in (*short, *long)]
    assert essence(together, ids) == essence(alone, ids)


def test_arrivals_in_between_change_nothing(model: Model, make_context: MakeContext) -> None:
    """Requests that arrive one after the other, while others run, give what they give alone."""
    context = exact(make_context, model, n_seq=3)
    alone = each_alone(model, context, mixed())
    driver = Driver(model, context, tuning=Tuning(chunker=Fixed(8)))
    for r in mixed():
        driver.submit(r)
        for _ in range(3):
            driver.step()
    together = driver.run()
    assert max(s.n_running for s in driver.steps) == 3
    assert essence(together, [r.id for r in mixed()]) == essence(alone, [r.id for r in mixed()])


@pytest.mark.parametrize("after", [0, 1, 2, 7, 19])
def test_continued_as_uninterrupted(model: Model, make_context: MakeContext, after: int) -> None:
    """A request that was interrupted after any delta continues, in another engine, with the same tokens and text."""
    requests = mixed()
    whole = run(model, exact(make_context, model), *requests)
    driver = Driver(model, exact(make_context, model))
    driver.submit(*requests)
    for _ in range(after):
        driver.step()
    cut = {r.id: driver.answers[r.id] for r in requests if driver.answers[r.id].finish is None}
    other = Driver(model, exact(make_context, model))
    for r in requests:
        if r.id in cut:
            sequence = r.sequence(model)
            sequence.go_on(cut[r.id].tokens, [model.piece(t) for t in cut[r.id].tokens])
            other.engine.submit(sequence, r.sampler(model))
    rest = other.run()
    for id, first in cut.items():
        assert first.tokens + rest[id].tokens == whole[id].tokens
        assert first.text + rest[id].text == whole[id].text
        assert first.cuts + rest[id].cuts == whole[id].cuts, "a reader ahead of the log finds each event again"
        assert (rest[id].finish, rest[id].reason) == (
            replace_times(rest[id].finish, whole[id].finish),
            whole[id].reason,
        )


def test_log_probabilities_of_every_token(model: Model, make_context: MakeContext) -> None:
    """Each generated token has its own, under its text and offset: in any batch, without changing a token."""
    context = exact(make_context, model)
    plain = each_alone(model, context, mixed())
    requests = [replace(r, n_logprobs=i % 4) for i, r in enumerate(mixed())]
    ends = {model.text_of(token) for token in model.end_tokens}
    alone = each_alone(model, context, requests)
    together = run(model, context, *requests)
    for r in requests:
        answer = alone[r.id]
        assert answer.tokens == plain[r.id].tokens
        assert together[r.id].logprobs == answer.logprobs
        its_own = [one for one in answer.logprobs if one.piece is not None or one.token not in ends]
        assert [one.piece or b"" for one in its_own] == [model.piece(t) for t in answer.tokens]
        assert len(answer.logprobs) - len(its_own) <= (answer.reason == "stop")
        assert {len(one.top) for one in answer.logprobs} <= {r.n_logprobs}
        assert [one.offset for one in its_own] == offsets(model, answer.tokens)


def offsets(model: Model, tokens: Iterable[int]) -> list[int]:
    """Whole characters before each token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ends = list(accumulate(len(decoder.decode(model.piece(token))) for token in tokens))
    return [0, *ends][: len(ends)]


def test_log_probabilities_continue(model: Model, make_context: MakeContext) -> None:
    """After an interruption they are those of an uninterrupted run, offsets included."""
    request = Request("a", "x", WARM, max_tokens=60, ignore_eos=True, n_logprobs=3)
    whole = run(model, exact(make_context, model), request)["a"]
    driver = Driver(model, exact(make_context, model))
    driver.submit(request)
    driver.run(until=lambda: len(driver.answers["a"].tokens) >= 20)
    first = driver.answers["a"]
    sequence = request.sequence(model)
    sequence.go_on(first.tokens, [model.piece(t) for t in first.tokens])
    other = Driver(model, exact(make_context, model))
    other.engine.submit(sequence, request.sampler(model))
    assert first.logprobs + other.run()["a"].logprobs == whole.logprobs


def test_continued_after_its_last_token(model: Model, make_context: MakeContext) -> None:
    """If the last token was delivered, but not the end, it ends at once and computes nothing."""
    request = Request("a", "x", max_tokens=5, ignore_eos=True)
    whole = run(model, exact(make_context, model), request)["a"]
    driver = Driver(model, exact(make_context, model))
    sequence = request.sequence(model)
    sequence.go_on(whole.tokens, [model.piece(t) for t in whole.tokens])
    driver.engine.submit(sequence, request.sampler(model))
    step = driver.step()
    assert (step.n_batch, step.deltas) == (0, [])
    assert [(f.reason, f.n_generated) for f in step.finished] == [("length", 5)]


# --- what is reported


def test_sequences_are_reported_before_they_are_computed(model: Model, make_context: MakeContext) -> None:
    """Each is named once, before its first step: should that one kill the process, the front knows the suspects."""
    told: list[list[str]] = []
    driver = Driver(model, exact(make_context, model, n_seq=2), started=told.append)
    driver.submit(*(Request(id, "x", max_tokens=3, ignore_eos=True) for id in "abc"))
    driver.step()
    assert told == [["a", "b"]]
    driver.run()
    assert told == [["a", "b"], ["c"]]


def test_deltas_are_the_generated_tokens(model: Model, make_context: MakeContext) -> None:
    """The deltas' ids, joined, are the generated tokens, and their texts the text of these."""
    driver = Driver(model, exact(make_context, model))
    driver.submit(*(replace(r, stop=()) for r in mixed()))
    for id, answer in driver.run().items():
        sequence = driver.sequences[id]
        made = sequence.tokens[sequence.n_prompt :]
        assert answer.tokens == made
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # an incomplete character is left out
        assert answer.text == decoder.decode(b"".join(model.piece(t) for t in made))
        assert answer.finish is not None
        assert (answer.finish.n_generated, answer.finish.n_prompt) == (len(made), sequence.n_prompt)


@pytest.mark.parametrize("shown", [False, True])
def test_control_tokens_in_the_text(bpe: Model, make_context: MakeContext, shown: bool) -> None:
    """A sequence that shows them has them as the vocabulary spells them, without the end token; others have none."""
    (start,) = bpe.control_ids["<|im_start|>"]
    request = Request("a", "x", structs.replace(GREEDY, logit_bias=((start, 1000.0),)), max_tokens=3)
    driver = Driver(bpe, make_context(bpe))
    driver.submit(request)
    driver.sequences["a"].shows_special = shown
    assert driver.run()["a"].text == ("<|im_start|>" * 3 if shown else "")
    assert driver.answers["a"].tokens == [start] * 3


def test_no_delta_cuts_a_character(bpe: Model, make_context: MakeContext) -> None:
    """A random model breaks UTF-8 all the time; each delta's text still has whole characters only."""
    driver = Driver(bpe, make_context(bpe))
    driver.submit(Request("a", "x", WARM, max_tokens=200, ignore_eos=True))
    answer = driver.run()["a"]
    assert "\ufffd" in answer.text
    assert any(len(tokens) > 1 for step in driver.steps for _, tokens, _ in step.deltas)
    assert answer.tokens == driver.sequences["a"].tokens[1 + 1 :]


def test_prefill_progress(model: Model, make_context: MakeContext) -> None:
    """A prompt's prefill is reported chunk by chunk, growing, up to all of it, and before any token."""
    driver = Driver(model, exact(make_context, model, n_batch=32))
    driver.submit(Request("a", "the fox " * 50, max_tokens=3, ignore_eos=True))
    driver.run()
    n_prompt = driver.sequences["a"].n_prompt
    seen = [(n, of) for step in driver.steps for id, n, of in step.prefill]
    assert [n for n, _ in seen] == [*range(32, n_prompt, 32), n_prompt]
    assert {of for _, of in seen} == {n_prompt}
    first_delta = next(i for i, step in enumerate(driver.steps) if step.deltas or step.finished)
    last_prefill = max(i for i, step in enumerate(driver.steps) if step.prefill)
    assert last_prefill <= first_delta
    assert sum(step.n_prefill for step in driver.steps) == n_prompt


def test_queue_positions(model: Model, make_context: MakeContext) -> None:
    """A waiting sequence is told its place when it changes, and only then, beginning with 1 for the next."""
    driver = Driver(model, exact(make_context, model, n_seq=1))
    driver.submit(*(Request(id, "x", max_tokens=2, ignore_eos=True) for id in "abcd"))
    driver.run()
    queued = [step.queued for step in driver.steps if step.queued]
    assert queued == [
        [("b", 1), ("c", 2), ("d", 3)],
        [("c", 1), ("d", 2)],
        [("d", 1)],
    ]


def test_queue_positions_after_a_cancel(model: Model, make_context: MakeContext) -> None:
    """Those behind a cancelled one move up."""
    driver = Driver(model, exact(make_context, model, n_seq=1))
    driver.submit(*(Request(id, "x", max_tokens=20, ignore_eos=True) for id in "abcd"))
    assert driver.step().queued == [("b", 1), ("c", 2), ("d", 3)]
    driver.engine.cancel("b")
    assert driver.step().queued == [("c", 1), ("d", 2)]
    assert driver.step().queued == []


def test_counts_of_a_step(model: Model, make_context: MakeContext) -> None:
    """A step counts running, waiting, its batch and the cells that hold a token."""
    driver = Driver(model, exact(make_context, model, n_seq=2))
    driver.submit(*(Request(id, "x", max_tokens=5, ignore_eos=True) for id in "abc"))
    n = driver.sequences["a"].n_prompt
    step = driver.step()
    assert (step.n_running, step.n_waiting, step.n_batch, step.n_prefill, step.kv_used) == (2, 1, 2 * n, 2 * n, 2 * n)
    step = driver.step()
    assert (step.n_batch, step.n_prefill, step.kv_used) == (2, 0, 2 * n + 2)
    driver.run()
    step = driver.steps[-1]
    assert (step.n_running, step.n_waiting, step.kv_used) == (0, 0, 0)


def test_durations(model: Model, make_context: MakeContext) -> None:
    """Queue, prefill and decode times are measured with the engine's clock."""
    now = iter(float(i) for i in range(1, 1000))
    driver = Driver(
        model,
        exact(make_context, model, n_seq=1, n_batch=32),
        clock=lambda: next(now),
        tuning=Tuning(chunker=Fixed(128)),
    )
    driver.submit(Request("a", "the fox " * 50, max_tokens=4, ignore_eos=True), Request("b", "x", max_tokens=1))
    driver.sequences["a"].accepted_at = driver.sequences["b"].accepted_at = -1.0
    answers = driver.run()
    a, b = answers["a"].finish, answers["b"].finish
    assert a is not None and b is not None
    # The clock is read three times a step: at its beginning, after the decode, at its end.
    n_chunks = -(-driver.sequences["a"].n_prompt // 32)
    assert (a.queue_s, a.prefill_s, a.decode_s) == (2.0, 3 * (n_chunks - 1) + 1, 9.0)
    assert (b.queue_s, b.prefill_s, b.decode_s) == (3 * (n_chunks + 3) + 2.0, 1.0, 0.0)
    assert [step.step_s for step in driver.steps] == [2.0] * len(driver.steps)


def test_repr(model: Model, make_context: MakeContext) -> None:
    """The engine shows its scheduler."""
    driver = Driver(model, exact(make_context, model, n_seq=2))
    assert repr(driver.engine) == "<Engine <Scheduler 0/2 running, 0 waiting, 0/2048 cells>>"


# --- cancel


def test_cancel_frees_at_once(model: Model, make_context: MakeContext) -> None:
    """A cancelled sequence's cells and id are free before the next step, which reports its end."""
    driver = Driver(model, exact(make_context, model, n_seq=1))
    driver.submit(
        Request("a", "the fox " * 20, max_tokens=500, ignore_eos=True), Request("b", "x", max_tokens=3, ignore_eos=True)
    )
    for _ in range(5):
        driver.step()
    made = driver.sequences["a"].n_generated
    driver.engine.cancel("a")
    assert repr(driver.engine) == "<Engine <Scheduler 0/1 running, 1 waiting, 0/2048 cells>>"
    step = driver.step()
    (finish,) = [f for f in step.finished if f.id == "a"]
    assert (finish.reason, finish.n_generated) == ("cancelled", made)
    assert step.kv_used == driver.sequences["b"].n_prompt
    driver.run()
    assert driver.answers["b"].reason == "length"


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding", "preempted"])
def test_cancel_leaves_the_others_alone(model: Model, make_context: MakeContext, when: str) -> None:
    """Whatever a sequence's state when it was cancelled, the others' answers stay what they are alone."""
    others = [replace(r, ignore_eos=True, stop=(), max_tokens=60) for r in mixed()[:3]]
    alone = each_alone(model, exact(make_context, model), others)
    small = {"n_ctx": 256} if when == "preempted" else {}
    driver = Driver(
        model, exact(make_context, model, n_seq=4 if when != "waiting" else 3, **small), tuning=Tuning(chunker=Fixed(8))
    )
    driver.submit(*others)
    driver.step()
    driver.submit(Request("x", "the fox " * 30, WARM, max_tokens=90, ignore_eos=True))
    x = driver.sequences["x"]
    driver.run(
        until={
            "waiting": lambda: len(driver.steps) == 5,
            "prefilling": lambda: 0 < x.n_past < x.n_prompt,
            "decoding": lambda: x.n_generated == 5,
            "preempted": lambda: x.n_past == 0 and x.n_generated > 0,
        }[when]
    )
    assert (x.seq_id == -1) == (when in ("waiting", "preempted"))
    assert x.finish_reason is None
    driver.engine.cancel("x")
    answers = driver.run()
    assert answers["x"].reason == "cancelled"
    assert essence(answers, [r.id for r in others]) == essence(alone, [r.id for r in others])


def test_cancel_of_an_unknown_id(model: Model, make_context: MakeContext) -> None:
    """Unknown, finished and twice cancelled ids are ignored."""
    driver = Driver(model, exact(make_context, model))
    driver.engine.cancel("nobody")
    assert driver.engine.is_idle
    driver.submit(Request("a", "x", max_tokens=1), Request("b", "x", max_tokens=9, ignore_eos=True))
    driver.step()
    driver.engine.cancel("a")
    driver.engine.cancel("b")
    driver.engine.cancel("b")
    driver.run()
    assert [f.id for s in driver.steps for f in s.finished] == ["a", "b"]


def test_cells_freed_in_between_change_nothing(model: Model, make_context: MakeContext) -> None:
    """Short answers that come and go next to long ones, and free cells over and over, change none of them."""
    long = [
        Request(f"long{i}", "the story", structs.replace(WARM, seed=i), max_tokens=300, ignore_eos=True)
        for i in range(4)
    ]
    short = [
        Request(f"short{i}", "Hello " * (1 + i % 9), WARM, max_tokens=5 + i % 11, ignore_eos=True) for i in range(60)
    ]
    context = exact(make_context, model, n_seq=8)
    alone = each_alone(model, context, long)
    driver = Driver(model, context)
    driver.submit(*long, *short)
    assert essence(driver.run(), [r.id for r in long]) == essence(alone, [r.id for r in long])
    assert max(s.kv_used for s in driver.steps) < 2048


def test_an_id_is_clean_after_a_cancel(model: Model, make_context: MakeContext) -> None:
    """A sequence that takes over the cells of a cancelled one answers as in a fresh context."""
    request = Request("new", "the story", WARM)
    alone = run(model, exact(make_context, model), request)
    driver = Driver(model, exact(make_context, model, n_seq=1))
    driver.submit(Request("old", "Hello " * 40, max_tokens=500, ignore_eos=True))
    for _ in range(10):
        driver.step()
    driver.engine.cancel("old")
    driver.submit(request)
    assert essence(driver.run(), ["new"]) == essence(alone, ["new"])


# --- ends


def test_max_tokens(model: Model, make_context: MakeContext) -> None:
    """An answer has exactly max_tokens tokens if nothing else ends it."""
    answers = run(
        model,
        exact(make_context, model),
        *(Request(str(n), "x", WARM, max_tokens=n, ignore_eos=True) for n in (1, 2, 7)),
    )
    assert {id: (len(a.tokens), a.reason) for id, a in answers.items()} == {
        "1": (1, "length"),
        "2": (2, "length"),
        "7": (7, "length"),
    }


def test_a_full_context_is_length(model: Model, make_context: MakeContext) -> None:
    """A sequence may fill every cell; its end is length."""
    context = exact(make_context, model, n_ctx=256, n_seq=2)
    driver = Driver(model, context)
    n = len(model.tokenize("Hello world", add_special=True, parse_special=True))
    driver.submit(Request("a", "Hello world", WARM, max_tokens=256 - n, ignore_eos=True))
    answer = driver.run()["a"]
    assert (len(answer.tokens), answer.reason) == (256 - n, "length")
    assert max(s.kv_used for s in driver.steps) >= 254


def test_two_that_fill_the_context(model: Model, make_context: MakeContext) -> None:
    """Two sequences that each want the whole cache both get it, one after the other."""
    context = exact(make_context, model, n_ctx=256, n_seq=2)
    requests = [Request(id, "Hello world", WARM, max_tokens=240, ignore_eos=True) for id in "ab"]
    driver = Driver(model, context)
    driver.submit(*requests)
    answers = driver.run()
    assert answers["a"].tokens == answers["b"].tokens
    assert [len(a.tokens) for a in answers.values()] == [240, 240]
    assert sum(s.n_preempted for s in driver.steps) >= 1


class RecordingSampler(Sampler):
    """A sampler that records what it drew, the end token too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.drawn: list[int] = []

    def draw(self, *args: Any) -> int:
        self.drawn.append(super().draw(*args))
        return self.drawn[-1]


def test_end_tokens(bpe: Model, make_context: MakeContext) -> None:
    """Each of the model's end tokens ends an answer with stop, and is not part of it."""
    hot = structs.replace(WARM, temperature=3.0)
    requests = [Request(str(i), "x", structs.replace(hot, seed=i), max_tokens=900) for i in range(8)]
    driver = Driver(bpe, make_context(bpe, n_ctx=8192, n_seq=8))
    samplers = [RecordingSampler(bpe, chain(r.sampling, []), seed=r.sampling.seed) for r in requests]
    for r, sampler in zip(requests, samplers, strict=True):
        driver.engine.submit(r.sequence(bpe), sampler)
    answers = driver.run()
    assert bpe.end_tokens <= {token for sampler in samplers for token in sampler.drawn}
    stopped = [a for a in answers.values() if a.reason == "stop"]
    assert len(stopped) >= 6
    assert not any(bpe.end_tokens & set(a.tokens) for a in answers.values())


def test_ignore_eos(bpe: Model, make_context: MakeContext) -> None:
    """The same requests with ignore_eos continue to their last token."""
    hot = structs.replace(WARM, temperature=3.0)
    requests = [Request(str(i), "x", structs.replace(hot, seed=i), max_tokens=400, ignore_eos=True) for i in range(4)]
    answers = run(bpe, make_context(bpe, n_ctx=2048), *requests)
    assert {a.reason for a in answers.values()} == {"length"}
    assert not any(bpe.end_tokens & set(a.tokens) for a in answers.values())


def test_stop_strings(model: Model, make_context: MakeContext) -> None:
    """A stop string from the middle of an answer ends it just before, in the step that completes the string."""
    context = exact(make_context, model)
    request = Request("a", "the fox", WARM, max_tokens=60, ignore_eos=True)
    whole = run(model, context, request)["a"].text
    places = [i for i in range(4, len(whole) - 8) if "\ufffd" not in whole[i : i + 4]]
    for at in (places[0], places[len(places) // 2]):
        stop = whole[at : at + 4]
        answer = run(model, context, replace(request, stop=(stop, "never there")))["a"]
        assert answer.text == whole[: whole.index(stop)]
        assert answer.reason == "stop"
        assert answer.finish is not None and answer.finish.n_generated < 60


# --- sampling through the loop


def test_seeds(model: Model, make_context: MakeContext) -> None:
    """A seed repeats an answer, also while the first one runs; another seed gives another."""
    context = exact(make_context, model)
    requests = [
        Request(f"{seed}-{i}", "x", structs.replace(WARM, seed=seed), ignore_eos=True) for seed in (1, 2) for i in "ab"
    ]
    answers = run(model, context, *requests)
    assert answers["1-a"].tokens == answers["1-b"].tokens
    assert answers["2-a"].tokens == answers["2-b"].tokens
    assert answers["1-a"].tokens != answers["2-a"].tokens


def test_greedy_is_the_argmax(model: Model, make_context: MakeContext) -> None:
    """Each greedy token is the most likely one after the prompt and all before it, computed again."""
    context = exact(make_context, model)
    request = Request("a", "the fox", GREEDY, max_tokens=12, ignore_eos=False)
    driver = Driver(model, context)
    driver.submit(request)
    driver.run()
    sequence = driver.sequences["a"]
    context.clear()
    for n in range(sequence.n_prompt, len(sequence.tokens)):
        (index,) = context.decode([(0, 0, sequence.tokens[:n], True)])
        assert int(context.logits(index).argmax()) == sequence.tokens[n]
        context.forget(0)


def test_penalties_see_prompt_and_answer(model: Model, make_context: MakeContext) -> None:
    """With a large penalty no token of the prompt is generated, and none twice."""
    sampling = structs.replace(GREEDY, presence_penalty=1000.0, repeat_last_n=1000)
    driver = Driver(model, exact(make_context, model))
    driver.submit(Request("a", "the fox and the story", sampling, max_tokens=60, ignore_eos=True))
    driver.run()
    sequence = driver.sequences["a"]
    made = sequence.tokens[sequence.n_prompt :]
    assert len(set(made)) == len(made) == 60
    assert not set(made) & set(sequence.tokens[: sequence.n_prompt])


def test_penalties_look_back_repeat_last_n(model: Model, make_context: MakeContext) -> None:
    """Only the last repeat_last_n tokens count, those of the prompt included."""
    sampling = structs.replace(GREEDY, presence_penalty=1000.0, repeat_last_n=2)
    driver = Driver(model, exact(make_context, model))
    driver.submit(Request("a", "the fox and the story", sampling, max_tokens=60, ignore_eos=True))
    driver.run()
    sequence = driver.sequences["a"]
    last = sequence.tokens[sequence.n_prompt - 2 :]
    assert all(c not in (a, b) for (a, b), (_, c) in pairwise(pairwise(last)))


SAMPLERS = [
    structs.replace(WARM, xtc_probability=0.5, xtc_threshold=0.05),
    structs.replace(WARM, dry_multiplier=1.0, dry_allowed_length=1),
    structs.replace(WARM, grammar="root ::= ([a-z]+ [ ])+"),
    structs.replace(WARM, mirostat=1),
    structs.replace(WARM, mirostat=2),
    structs.replace(WARM, adaptive_target=0.2),
]


def test_preempted_with_any_sampler(model: Model, make_context: MakeContext) -> None:
    """A preempted sequence keeps its sampler: mirostat and adaptive-p, too, continue as if alone."""
    requests = [Request(str(i), "the fox", s, max_tokens=80, ignore_eos=True) for i, s in enumerate(SAMPLERS)]
    alone = each_alone(model, exact(make_context, model), requests)
    driver = Driver(model, exact(make_context, model, n_ctx=256))
    driver.submit(*requests)
    together = driver.run()
    assert sum(s.n_preempted for s in driver.steps) >= 1
    assert essence(together, [r.id for r in requests]) == essence(alone, [r.id for r in requests])


def test_a_grammar_that_no_token_fits(model: Model, make_context: MakeContext) -> None:
    """Its sequence is refused in the middle and its cells are freed; the others continue."""
    refused: list[Rejected] = []
    driver = Driver(model, exact(make_context, model), refused=refused.append)
    stuck = structs.replace(WARM, grammar='root ::= "a" [^\\x00-\\UFFFFFFFF]')
    other = Request("b", "the fox", WARM, max_tokens=20, ignore_eos=True)
    driver.submit(Request("a", "the fox", stuck), other)
    answers = driver.run()
    assert refused == [Rejected("a", "invalid_request", "grammar: no token matches here", "grammar")]
    assert (answers["a"].finish, answers["b"].reason) == (None, "length")
    assert driver.engine.scheduler.n_cells_used == 0
    assert essence(answers, "b") == essence(run(model, exact(make_context, model), other), "b")


# --- when llama.cpp refuses


class Cells:
    """A fake context with a smaller cache than it reports, as one with windows may have."""

    n_seq, n_ids, n_batch, n_outputs_max, n_ctx, n_tile = 4, 6, 64, 4, 1000, None
    in_order, memory, can_share = False, Memory.CUTTABLE, True

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.cells: dict[int, int] = defaultdict(int)
        self.n_refused = 0

    def decode(self, rows: Iterable[tuple[int, int, Sequence[int], int]]) -> list[int]:
        rows = list(rows)
        if sum(self.cells.values()) + sum(len(tokens) for _, _, tokens, _ in rows) > self.n_cells:
            self.n_refused += 1
            if self.n_refused > 500:
                raise AssertionError("refused for ever")
            raise NoRoom("full")
        last, n = [], 0
        for seq_id, position, tokens, _ in rows:
            assert position == self.cells[seq_id], "no gap, no token twice, none of the id's earlier sequence"
            self.cells[seq_id] += len(tokens)
            n += len(tokens)
            last.append(n - 1)
        return last

    def logits(self, index: int) -> NDArray[np.float32]:
        return np.array([token == 65 for token in range(256)], np.float32)

    def clear(self) -> None:
        self.cells.clear()

    def has_window(self, seq_id: int, n: int) -> bool:
        return True

    def share(self, source: int, seq_id: int, n: int) -> None:
        self.cells[seq_id] = n  # as if each had cells of its own: it is full sooner

    def forget(self, seq_id: int, *, dead: bool) -> None:
        self.cells.pop(seq_id, None)


class Vocabulary:
    """A fake model for Cells."""

    end_tokens = frozenset[int]()
    n_vocab = 256

    def tokenize(self, text: str, **_: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token])


def test_no_room_in_spite_of_the_count() -> None:
    """If llama.cpp has fewer cells than were counted, the youngest are preempted until the batch fits, and all end."""
    cells = Cells(60)
    driver = Driver(Vocabulary(), cells)  # type: ignore[arg-type]
    driver.submit(*(Request(id, id * 25, max_tokens=20) for id in "abcd"))
    answers = driver.run()
    assert {id: (len(a.tokens), a.reason) for id, a in answers.items()} == dict.fromkeys("abcd", (20, "length"))
    assert cells.n_refused > 0
    assert sum(s.n_preempted for s in driver.steps) > 0
    assert len(cells.cells) == len(driver.engine.scheduler.kept)


def test_no_room_for_one() -> None:
    """If not even a lone sequence fits, the engine can't continue, and the error says so."""
    driver = Driver(Vocabulary(), Cells(10))  # type: ignore[arg-type]
    driver.submit(Request("a", "x" * 25))
    with pytest.raises(LlamaError, match="alone in it"):
        driver.step()


def test_nothing_to_do(model: Model, make_context: MakeContext) -> None:
    """A step without work computes nothing and reports nothing."""
    driver = Driver(model, exact(make_context, model))
    assert driver.engine.is_idle
    step = driver.step()
    assert (step.n_batch, step.deltas, step.finished, step.queued) == (0, [], [], [])


class Slow(Argmax):
    """Draws when the test allows it, like a grammar that takes long to follow."""

    is_quick = False

    def __init__(self, *, is_long: bool = True) -> None:
        super().__init__()
        self._is_long = is_long
        self.begins, self.may_draw, self.is_closed = threading.Event(), threading.Event(), False

    def may_take_long(self, n: int) -> bool:
        return self._is_long

    def draw(self, logits: NDArray[np.float32], candidates: Candidates, ids: NDArray[Any] | None = None) -> int:
        self.begins.set()
        assert self.may_draw.wait(PATIENCE_S)
        return super().draw(logits, candidates, ids)

    def close(self) -> None:
        self.is_closed = True


def slow_one(driver: Driver, request: Request) -> Slow:
    """Submits a request and runs until its first draw has begun."""
    sampler = Slow()
    driver.sequences[request.id] = request.sequence(driver.model)
    driver.engine.submit(driver.sequences[request.id], sampler)
    driver.run(until=sampler.begins.is_set)
    return sampler


def test_no_sequence_waits_for_anothers_long_draw(bpe: Model, make_context: MakeContext) -> None:
    """Others end meanwhile; then it continues, and gives what it gives alone."""
    request = Request("slow", "the fox", max_tokens=20)
    alone = run(bpe, make_context(bpe), request)["slow"]
    driver = Driver(bpe, make_context(bpe))
    sampler = slow_one(driver, request)
    driver.submit(Request("other", "hello", max_tokens=30))
    answers = driver.run(until=lambda: driver.answers["other"].finish is not None)
    assert answers["slow"] == Answer()
    sampler.may_draw.set()
    assert (driver.run()["slow"].tokens, driver.answers["slow"].text) == (alone.tokens, alone.text)
    driver.engine.close()


def test_other_tenants_do_not_wait_after_a_long_draw(bpe: Model, make_context: MakeContext) -> None:
    """After an expensive draw a sampler draws in the background of another tenant's streams, with the same result."""
    request = Request("slow", "the fox", max_tokens=8)
    alone = run(bpe, make_context(bpe), request)["slow"]
    driver = Driver(bpe, make_context(bpe))
    sampler = Slow(is_long=False)
    sampler.may_draw.set()
    slow = driver.sequences["slow"] = replace(request.sequence(bpe), tenant="dear")
    driver.engine.submit(slow, sampler)
    driver.submit(Request("other", "hello", max_tokens=30))
    driver.run(until=lambda: slow.n_generated == 2)
    assert 0 < slow.draw_s < QUICK_S
    slow.draw_s = 2 * QUICK_S
    sampler.may_draw.clear()
    answers = driver.run(until=lambda: driver.answers["other"].finish is not None)
    assert len(answers["slow"].tokens) == 2
    sampler.may_draw.set()
    assert driver.run()["slow"].tokens == alone.tokens
    driver.engine.close()


def test_a_sequence_in_a_draw_is_cancelled_at_once(bpe: Model, make_context: MakeContext) -> None:
    """Its sampler lives until the draw has ended."""
    driver = Driver(bpe, make_context(bpe))
    sampler = slow_one(driver, Request("slow", "the fox"))
    driver.engine.cancel("slow")
    assert driver.step().finished[0].reason == "cancelled"
    assert driver.engine.is_idle and not sampler.is_closed
    sampler.may_draw.set()
    driver.engine.close()
    assert sampler.is_closed


def test_a_sequence_in_a_draw_is_preempted(bpe: Model, make_context: MakeContext) -> None:
    """Its cells go to others, and are computed again after the token that is drawn meanwhile."""
    request = Request("slow", "the fox", max_tokens=20)
    alone = run(bpe, make_context(bpe), request)["slow"]
    driver = Driver(bpe, make_context(bpe))
    driver.submit(Request("other", "hello", max_tokens=200))
    sampler = slow_one(driver, request)
    driver.engine._give_way()
    assert driver.sequences["slow"].seq_id == -1
    for _ in range(5):
        driver.step()
    assert driver.sequences["slow"].seq_id == -1, "there is nothing to compute before it is drawn"
    sampler.may_draw.set()
    assert driver.run()["slow"].tokens == alone.tokens
    driver.engine.close()
