"""Structured streams in the loop, among others, with draft tokens, and continued after an engine's death."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from msgspec.structs import replace

from service.engine.engine import Engine
from service.engine.llama.model import Model
from service.engine.prompts.inbox import Inbox
from service.engine.tuning import Tuning
from service.protocol.frames import Finish, Rejected, Step, Submit
from service.protocol.said import text_of
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure
from tests.engine.child import Child
from tests.engine.conftest import MakeContext
from tests.engine.prompts.test_preparation import HOSTILE
from tests.engine.speculation.test_drafting import Oracle
from tests.engine.test_engine import Answer, exact

PEOPLE: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name"],
        "additionalProperties": False,
    },
    "minItems": 3,
    "maxItems": 3,
}
FORM = Structure("json", json.dumps(PEOPLE), "json_schema")
STREAM = Submit(id="one", text="the fox and the fox", sampling=Sampling(seed=3), structure=FORM, max_tokens=300)


class Run:
    """One engine in this process, and what it said of each stream."""

    def __init__(self, model: Model, make_context: MakeContext, *submits: Submit, tuning: Tuning | None = None) -> None:
        self.texts: dict[str, str] = {}
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, Finish | Rejected] = {}
        inbox = Inbox(model, n_ctx_seq=500)
        self.steps: list[Step] = []
        engine = Engine(model, exact(make_context, model), tuning, refused=self._refused)
        for submit in submits:
            opened = inbox.open(submit, 0.0)
            assert not isinstance(opened, Rejected), opened
            engine.submit(*opened[:2])
        while not engine.is_idle:
            step = engine.step()
            self.steps.append(step)
            for id, tokens, text in step.deltas:
                self.texts[id] = self.texts.get(id, "") + text_of(text)
                self.tokens.setdefault(id, []).extend(tokens)
            self.ends |= {finish.id: finish for finish in step.finished}
        engine.close()

    def _refused(self, refused: Rejected) -> None:
        self.ends[refused.id] = refused

    def reason(self, id: str = "one") -> str:
        end = self.ends[id]
        return end.reason if isinstance(end, Finish) else end.message


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_has_its_form_among_others(bpe: Model, make_context: MakeContext, temperature: float) -> None:
    """Its text is that which it has alone, and those of others are theirs."""
    sampling = Sampling(seed=3, temperature=temperature)
    one = replace(STREAM, sampling=sampling)
    other = replace(STREAM, id="other", structure=None, sampling=sampling, ignore_eos=True, max_tokens=60)
    alone, free = Run(bpe, make_context, one), Run(bpe, make_context, other)
    both = Run(bpe, make_context, one, other)
    assert (both.texts["one"], both.texts["other"]) == (alone.texts["one"], free.texts["other"])
    assert alone.reason() == "stop"
    Draft202012Validator(PEOPLE).validate(json.loads(alone.texts["one"]))


def test_draft_tokens_have_its_form(bpe: Model, make_context: MakeContext) -> None:
    """Right ones are accepted and wrong ones rejected, and the text is that without them."""
    alone = Run(bpe, make_context, STREAM)
    drafts = Oracle({"one": Answer(tokens=alone.tokens["one"])})
    drafted = Run(bpe, make_context, STREAM, tuning=Tuning(drafts=drafts))
    assert (drafted.texts, drafted.reason()) == (alone.texts, "stop")
    n_accepted = sum(step.n_accepted for step in drafted.steps)
    assert 0 < n_accepted < sum(step.n_drafted for step in drafted.steps)


def test_max_tokens_ends_it_with_length(bpe: Model, make_context: MakeContext) -> None:
    """It is the beginning of the whole answer then."""
    whole, cut = (Run(bpe, make_context, replace(STREAM, max_tokens=n)) for n in (300, 7))
    assert (cut.reason(), len(cut.tokens["one"])) == ("length", 7)
    assert whole.texts["one"].startswith(cut.texts["one"])


def test_a_stop_string_ends_it(bpe: Model, make_context: MakeContext) -> None:
    """Wherever it is."""
    stopped = Run(bpe, make_context, replace(STREAM, stop=['"name"']))
    assert (stopped.texts["one"], stopped.reason()) == ("[{", "stop")


def test_a_stream_continues_in_another_engine(bpe: Model, make_context: MakeContext) -> None:
    """After any of its tokens its text is, byte for byte, that of the undisturbed one."""
    whole = Run(bpe, make_context, STREAM)
    tokens, n = whole.tokens["one"], len(whole.tokens["one"])
    for cut in (1, 2, n // 3, n // 2, n - 1, n):
        rest = Run(bpe, make_context, replace(STREAM, delivered=tokens[:cut]))
        assert tokens[:cut] + rest.tokens.get("one", []) == tokens
        assert rest.reason() == "stop"
        begun = b"".join(bpe.piece(token) for token in tokens[:cut]).decode("utf-8", "ignore")
        assert begun + rest.texts.get("one", "") == whole.texts["one"]


def test_a_stream_that_cannot_continue_ends_with_its_field(bpe: Model, make_context: MakeContext) -> None:
    """All tokens that fit are banned: the client's mistake, after it was accepted."""
    (a,) = bpe.tokenize("a", add_special=False, parse_special=False)
    form, biased = Structure("regex", "a+", "guided_regex"), Sampling(seed=1, logit_bias=((a, None),))
    run = Run(bpe, make_context, replace(STREAM, structure=form, sampling=biased))
    end = run.ends["one"]
    assert isinstance(end, Rejected)
    assert (end.code, end.param) == ("invalid_request", "guided_regex")


@pytest.fixture(scope="module")
def engine(write: Callable[..., Path]) -> Iterator[Child]:
    """One engine process that must survive all tests of this file."""
    with Child(write("structured", n_ctx_train=1024), n_ctx=4096, n_seq=4, kv_type="bf16") as child:
        yield child.ready()


def result(engine: Child, submit: Submit) -> tuple[str, Finish | Rejected]:
    """A stream's text and end."""
    engine.send(submit)
    text = ""
    while True:
        frame = engine.receive()
        if isinstance(frame, Rejected) and frame.id == submit.id:
            return text, frame
        if isinstance(frame, Step):
            text += "".join(text_of(words) for id, _, words in frame.deltas if id == submit.id)
            if ends := [finish for finish in frame.finished if finish.id == submit.id]:
                return text, ends[0]


def test_an_engine_survives_every_structure(engine: Child) -> None:
    """What hostile ones end is the process that prepares them: each is refused by its field, or its stream ends; and
    the others' texts are the same before and after."""
    before, end = result(engine, STREAM)
    assert isinstance(end, Finish)
    Draft202012Validator(PEOPLE).validate(json.loads(before))
    for n, (kind, text) in enumerate(HOSTILE.values()):
        hostile = replace(STREAM, id=f"hostile {n}", structure=Structure(kind, text, "theirs"), max_tokens=20)
        _, end = result(engine, hostile)
        assert isinstance(end, Finish) or (end.code, end.param) == ("invalid_request", "theirs"), kind
        assert result(engine, replace(STREAM, id=f"after {n}"))[0] == before


def test_it_continues_in_the_same_engine(engine: Child) -> None:
    """As after the death of one before it."""
    whole, _ = result(engine, replace(STREAM, id="whole"))
    tokens = [
        token
        for frame in engine.seen
        if isinstance(frame, Step)
        for id, new, _ in frame.deltas
        if id == "whole"
        for token in new
    ]
    rest, end = result(engine, replace(STREAM, id="rest", delivered=tokens[:20]))
    assert isinstance(end, Finish) and end.reason == "stop"
    assert whole.endswith(rest) and 0 < len(rest) < len(whole)
