from __future__ import annotations

import dataclasses
import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service import errors
from service.dialects import codec as dialects
from service.dialects.events import Dialect, Phase
from service.dialects.llama_server import Completion, Deltas, WholeCompletion
from service.dialects.logprobs import Kind
from service.dialects.native import Native
from service.dialects.openai import Answer, Chunks, Whole
from service.errors import EngineCrash, QueueTimeout
from service.protocol.constraints import Constraints
from service.protocol.frames import Submit
from service.protocol.prompting import Prompting
from service.protocol.sampling import Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import NO_TOOLING, Tooling
from service.replication.records import (
    End,
    Event,
    LogPosition,
    Record,
    decode,
    decode_record,
    encode_end,
    encode_event,
    encode_record,
    settled,
)
from tests.fakes import SUMMARY, said

RECORD = Record(
    submit=Submit(id="a", sampling=Sampling(seed=7), messages=[{"role": "user", "content": "hi"}], stop=["x"]),
    dialect={"name": "native"},
    tenant="t",
    route="/stream",
    grace_s=30.0,
    arrived_at=1.5,
    model="digest",
    key="t:k",
)


def test_an_event_is_decoded() -> None:
    """With the same bytes, tokens and phase; for its own stream only."""
    event = Event("id: a.0.0\ndata: ✨\n\n".encode(), [1, 2], Phase.ANSWERING)
    assert event == decode("a", encode_event("a", event))
    with pytest.raises(ValueError, match="another stream"):
        decode("b", encode_event("a", event))


def test_an_end_is_decoded() -> None:
    """With its last events, summary and text."""
    end = End([b"id: a.1.0\ndata: x\n\n"], "stop", SUMMARY, None, "whole")
    assert end == decode("a", encode_end("a", end))
    with pytest.raises(ValueError, match="another stream"):
        decode("b", encode_end("a", end))
    more = dataclasses.replace(end, logprobs='{"content":[{"token":"✨"}],"refusal":null}'.encode())
    assert more == decode("a", encode_end("a", more))


@pytest.mark.parametrize("error", [EngineCrash("gone", retry_after_s=5.0), QueueTimeout("late", param="p")])
def test_an_error_is_decoded(error: errors.RillError) -> None:
    """A client of another replica gets the same error."""
    back = decode("a", encode_end("a", End([], error.outcome, SUMMARY, error)))
    assert isinstance(back, End) and back.error is not None
    assert errors.as_dict(back.error) == errors.as_dict(error)
    assert back.error.body() == error.body()


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[]", b"7", b'["a"]', b'["a",1]', b'["a",{}]', b'["a","x",[1]]', b'["a","x",["y"],"answering"]'],
)
def test_invalid_entries(payload: bytes) -> None:
    """ValueError, whatever it is."""
    with pytest.raises(ValueError):  # its text is for the log
        decode("a", payload)


def test_a_record_is_decoded() -> None:
    """With all that an adopter needs."""
    assert decode_record(encode_record(RECORD)) == RECORD
    for body in (b"", b"[]", b"{}", b'{"submit":{}}'):
        with pytest.raises(ValueError):
            decode_record(body)


def test_versions_read_each_other() -> None:
    """Stored records keep their field names and shapes; fields that a later version adds are ignored."""
    sampling = {"seed": 7, "top_k": 40, "dry_sequence_breakers": ["\n", ":", '"', "*"], "logit_bias": [[5, None]]}
    stored = {
        "submit": {
            "id": "a",
            "sampling": sampling,
            "messages": [{"role": "user", "content": "hi"}],
            "or_raw": False,
            "text": None,
            "tokens": None,
            "max_tokens": None,
            "stop": ["x"],
            "ignore_eos": False,
            "delivered": [],
            "asked_at": None,
            "tenant": "",
            "pace": None,
            "is_owed": False,
        },
        "dialect": {"name": "native"},
        "tenant": "t",
        "route": "/stream",
        "grace_s": 30.0,
        "arrived_at": 1.5,
        "model": "digest",
        "key": "t:k",
    }
    wanting = replace(RECORD, submit=replace(RECORD.submit, logprobs=0))
    assert decode_record(encode_record(wanting)) == wanting
    biased = replace(RECORD, submit=replace(RECORD.submit, sampling=Sampling(seed=7, logit_bias=((5, None),))))
    assert decode_record(json.dumps(stored | {"of_later": 1}).encode()) == biased
    written = json.loads(encode_record(biased))
    written["submit"]["sampling"] = {name: written["submit"]["sampling"][name] for name in sampling}
    assert written == stored


def test_later_fields_are_stored_where_they_are_given() -> None:
    """Another replica continues such a request as it was asked for, or, of an earlier version, not at all."""
    constraints = Constraints(bad_words=("fox", (1, 2)), stop_token_ids=(5,), min_tokens=3, t_max_predict_ms=7)
    submit = replace(RECORD.submit, prompting=Prompting(truncate_prompt_tokens=9), constraints=constraints)
    record = replace(RECORD, submit=submit)
    assert decode_record(encode_record(record)) == record
    written = json.loads(encode_record(record))["submit"]
    assert written["prompting"] == {"truncate_prompt_tokens": 9}
    assert "prompting" not in json.loads(encode_record(RECORD))["submit"]


def test_fields_of_this_version_are_stored_where_they_are_used() -> None:
    """A replica of the version before reads every record without them, and refuses one whose text it would change."""
    structured = replace(RECORD, submit=replace(RECORD.submit, structure=Structure("json", "{}", "json_schema")))
    assert decode_record(encode_record(structured)) == structured
    assert json.loads(encode_record(structured))["submit"]["structure"] == {
        "kind": "json",
        "text": "{}",
        "field": "json_schema",
    }
    assert "structure" not in json.loads(encode_record(RECORD))["submit"]


def test_a_record_with_tools() -> None:
    """They are written where there are any, and an adopter gets them."""
    tooling = Tooling(tools="[]", turns=((0, "tool_call_id", "a"),), effort="none")
    record = replace(RECORD, submit=replace(RECORD.submit, tooling=tooling))
    assert decode_record(encode_record(record)) == record
    assert record.without_prompt().submit.tooling == NO_TOOLING


def test_versions_read_each_others_entries() -> None:
    """The same for a log: an event, an end, and an error from before there were counts."""
    event = b'["a","data: x\\n\\n",[1,2],"answering"]'
    assert encode_event("a", Event(b"data: x\n\n", [1, 2], Phase.ANSWERING)) == event
    assert decode("a", event) == Event(b"data: x\n\n", [1, 2], Phase.ANSWERING)
    error = {"status": 503, "type": "t", "code": "c", "outcome": "o", "message": "m", "param": None}
    error |= {"retry_after_s": 5.0, "counts": {}}
    summary = {
        "finish_reason": "stop", "n_prompt": 3, "n_cached": 0, "n_generated": 2, "seed": 7, "queue_s": 0.0,
        "prefill_s": 0.5, "ttft_s": None, "decode_s": 1.0, "total_s": 2.0,
    }  # fmt: skip
    end = {"events": ["data: x\n\n"], "outcome": "o", "summary": summary, "error": error, "text": ""}
    back = decode("a", json.dumps(["a", end]).encode())
    assert isinstance(back, End) and back.error is not None
    assert json.loads(encode_end("a", back)) == ["a", end]
    del error["counts"]
    summary["of_later"] = 1
    assert decode("a", json.dumps(["a", end | {"of_later": 1}]).encode()).__class__ is End


def test_a_record_without_its_prompt() -> None:
    """Nothing that a user wrote is left, and has_prompt is false."""
    bare = RECORD.without_prompt()
    assert RECORD.has_prompt and not bare.has_prompt
    assert b"hi" not in encode_record(bare)
    submit = replace(bare.submit, messages=RECORD.submit.messages, stop=["x"], sampling=RECORD.submit.sampling)
    assert submit == RECORD.submit
    words = replace(RECORD.submit, constraints=Constraints(bad_words=("theirs",), min_tokens=2))
    assert words.without_prompt().constraints == Constraints(min_tokens=2)
    written = Sampling(seed=1, grammar="theirs", logit_bias=((7, 1.0),), dry_sequence_breakers=("theirs",))
    form = Structure("regex", "theirs", "guided_regex")
    bare_submit = replace(RECORD.submit, sampling=written, structure=form).without_prompt()
    assert bare_submit.sampling == replace(Sampling(seed=1), dry_sequence_breakers=())
    assert bare_submit.structure is None


ANSWER = Answer("chat", model="m", fingerprint="f")


COMPLETION = Completion("m", n_ctx=9, settings={"top_p": 0.95, "samplers": ["top_p"]})


@pytest.mark.parametrize(
    "dialect",
    [
        Native(),
        Chunks(ANSWER, include_usage=True),
        Whole(ANSWER),
        Deltas(COMPLETION),
        WholeCompletion(COMPLETION),
    ],
)
def test_a_dialect_is_decoded(dialect: Dialect) -> None:
    """It makes the same events with the same text, ids and dates included."""
    back = dialects.make(json.loads(json.dumps(dialects.describe(dialect))))
    assert type(back) is type(dialect)
    assert back.delta("x") == dialect.delta("x")
    assert back.done(SUMMARY) == dialect.done(SUMMARY)
    if isinstance(dialect, Whole) and isinstance(back, Whole):
        assert back.body(SUMMARY) == dialect.body(SUMMARY)
    assert back.delta(said("x", 2)) == dialect.delta(said("x", 2))


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_an_answer_in_one_piece_is_restored(kind: Kind) -> None:
    """With its text and log-probabilities, from what is stored of it."""
    answer = Answer(kind, model="m", fingerprint="f")
    original, restored = Whole(answer), Whole(answer)
    for text in ("Once", " upon"):
        original.delta(said(text, 2))
    restored.restore(original.text, original.logprobs)
    assert orjson.dumps(restored.body(SUMMARY)) == orjson.dumps(original.body(SUMMARY))
    assert b'"Once"' in restored.logprobs


@pytest.mark.parametrize("values", [{}, {"name": "klingon"}, {"name": "chunks"}, {"name": "whole", "answer": {"x": 1}}])
def test_invalid_dialects(values: dict[str, object]) -> None:
    """ValueError."""
    with pytest.raises(ValueError):
        dialects.make(values)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), max_size=20))
def test_the_valid_entries_of_a_log(ids: list[tuple[int, int]]) -> None:
    """Numbers without a gap; from a later owner's entry on, none of an earlier owner's."""
    entries = [(LogPosition(*id), b"") for id in sorted(set(ids))]
    log = [place for place, _ in settled(entries)]
    assert [place.number for place in log] == list(range(1, len(log) + 1))
    assert [place.epoch for place in log] == sorted(place.epoch for place in log)
