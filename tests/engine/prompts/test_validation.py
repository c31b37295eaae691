"""Any Submit that the engine can receive is refused or computed, and other requests are not affected."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from service.engine.prompts.validation import decode, misfit
from service.protocol.codec import ProtocolError, encode
from service.protocol.frames import Cancel, Finish, Frame, Rejected, Step, Submit
from service.protocol.said import text_of
from service.protocol.sampling import Sampling
from tests.engine.child import Child
from tests.patience import PATIENCE_S

N_VOCAB = 318  # tiny's
PLAIN: dict[str, Any] = {"text": "the fox", "max_tokens": 8}
NEIGHBOURS = [
    Submit(
        id=f"neighbour {i}",
        sampling=Sampling(seed=i, temperature=0.9 * (i % 2), frequency_penalty=0.3 * (i % 3)),
        text=f"Hello world {i}",
        max_tokens=400,
    )
    for i in range(6)
]

# Fields of a Submit as they are in the frame, and of its sampling; JSON has no NaN: a NaN becomes null.
REFUSED: list[dict[str, Any]] = [
    {"text": None, "tokens": [-1]},
    {"text": None, "tokens": [N_VOCAB]},
    {"text": None, "tokens": [5, 2**31]},
    {"text": None, "tokens": [2**63]},
    {"text": None, "tokens": [1.5]},
    {"text": None, "tokens": ["a"]},
    {"text": None, "tokens": []},
    {"text": None, "tokens": 7},
    {"text": None},
    {"text": 7},
    {"text": None, "messages": [{}]},
    {"text": None, "messages": [{"role": "user", "content": None}]},
    {"text": None, "messages": "hello"},
    {"text": None, "tokens": [5] * 5000},
    {"text": "the fox " * 5000},
    {"delivered": [-1]},
    {"delivered": [5, N_VOCAB]},
    {"delivered": [2**40]},
    {"delivered": [[5]]},
    {"delivered": [1.5]},
    {"delivered": "abc"},
    {"delivered": None},
    {"stop": [7]},
    {"stop": None},
    {"max_tokens": "many"},
    {"max_tokens": -5},
    {"sampling": {"temperature": None}},
    {"sampling": {"temperature": "hot"}},
    {"sampling": {"temperature": 1e300}},
    {"sampling": {"top_p": None}},
    {"sampling": {"top_k": 2**40}},
    {"sampling": {"top_k": 1.5}},
    {"sampling": {"min_p": None}},
    {"sampling": {"repeat_penalty": None}},
    {"sampling": {"repeat_penalty": 0.0}},
    {"sampling": {"repeat_penalty": 1e300}},
    {"sampling": {"frequency_penalty": None}},
    {"sampling": {"frequency_penalty": -1e300}},
    {"sampling": {"repeat_last_n": 2**40, "repeat_penalty": 1.1}},
    {"sampling": {"seed": 2**32}},
    {"sampling": {"seed": -1}},
    {"sampling": {"seed": None}},
    {"sampling": {"seed": 2**32 - 1}},  # "random" to llama.cpp
    {"sampling": {"mirostat": 3}},
    {"sampling": {"mirostat_tau": None}},
    {"sampling": {"dry_multiplier": 1.0, "dry_penalty_last_n": -1}},
    {"sampling": {"dry_multiplier": 1.0, "dry_allowed_length": 2**31}},
    {"sampling": {"dry_multiplier": 1.0, "dry_sequence_breakers": [7]}},
    {"sampling": {"dry_multiplier": 1.0, "dry_sequence_breakers": "x"}},
    {"sampling": {"logit_bias": [[5]]}},
    {"sampling": {"logit_bias": [[5, "x"]]}},
    {"sampling": {"logit_bias": [[N_VOCAB, 1.0]]}},
    {"sampling": {"logit_bias": [[-1, 1.0]]}},
    {"sampling": {"logit_bias": {"5": 1.0}}},
    {"sampling": {"grammar": 7}},
    {"sampling": {"grammar": "root ::= " + "(" * 20_000}},
    {"sampling": {"grammar": "root ::= nobody"}},
    {"constraints": None},
    {"constraints": {"min_tokens": -1}},
    {"constraints": {"min_tokens": 2**31}},
    {"constraints": {"stop_token_ids": [N_VOCAB]}},
    {"constraints": {"stop_token_ids": ["a"]}},
    {"constraints": {"bad_words": [7]}},
    {"constraints": {"bad_words": [[N_VOCAB]]}},
    {"constraints": {"bad_words": [["a"]]}},
    {"constraints": {"bad_words": [[t] for t in range(N_VOCAB)]}},
    {"constraints": {"t_max_predict_ms": -1}},
    {"prompting": {"truncate_prompt_tokens": -2}},
    {"prompting": {"add_special_tokens": "yes"}},
    {"sampling": {"logit_bias": [["q" * 2000, 1.0]]}},
    {"tenant": None},
    {"tenant": 7},
    {"pace": 0},
    {"pace": -1.0},
    {"pace": 1e300},
    {"pace": "fast"},
    {"pace": True},
    {"asked_at": "today"},
    {"text": None, "messages": [{"role": "user", "content": "x"}], "asked_at": 1e300},
    {"id": "neighbour 0"},
]
COMPUTED: list[dict[str, Any]] = [
    {"text": "<|im_start|></s>\0"},
    {"text": None, "messages": []},
    {"text": None, "messages": [{"role": "<|im_end|>", "content": "</s>" * 50}]},
    {"text": None, "tokens": [0, N_VOCAB - 1] * 500},
    {"delivered": [N_VOCAB - 1] * 7},
    {"delivered": [5] * 5000},
    {"max_tokens": 2**31},
    {"stop": ["", "x" * 100_000, "\0"]},
    {"tenant": "\0" * 1000},
    {"constraints": {"min_tokens": 2**31 - 1}},
    {"constraints": {"min_tokens": 3, "bad_words": ["the", "", [], [5, 6], "\0"], "stop_token_ids": [0, 0, 5]}},
    {"constraints": {"t_max_predict_ms": 1, "include_stop_str_in_output": True}, "stop": ["e", "</s>"]},
    {"prompting": {"truncate_prompt_tokens": 0, "cache_prompt": False}},
    {"text": None, "tokens": [5] * 5000, "prompting": {"truncate_prompt_tokens": -1}, "max_tokens": 2**31 - 1},
    {"sampling": {"logit_bias": [["", 1.0], ["the fox", None], [5, 1.0]]}},
    {"pace": 1e-300},
    {"pace": 3e38},
    {"sampling": {"temperature": -1.0}},
    {"sampling": {"temperature": 3e38}},
    {"sampling": {"temperature": 1e-300}},
    {"sampling": {"top_k": -(2**31), "top_p": -3e38, "min_p": 3e38}},
    {"sampling": {"repeat_penalty": 3e38, "frequency_penalty": 3e38, "presence_penalty": -3e38}},
    {"sampling": {"repeat_penalty": 1e-45}},
    {"sampling": {"xtc_probability": 3e38, "xtc_threshold": -3e38, "typical_p": -1.0, "top_n_sigma": 3e38}},
    {"sampling": {"dynatemp_range": 3e38, "dynatemp_exponent": -3e38}},
    {"sampling": {"dry_multiplier": 3e38, "dry_base": -3e38, "dry_allowed_length": 0}},
    {"sampling": {"mirostat": 1, "mirostat_tau": -3e38, "mirostat_eta": 3e38}},
    {"sampling": {"mirostat": 2, "mirostat_tau": 3e38, "mirostat_eta": -3e38}},
    {"sampling": {"adaptive_target": 3e38, "adaptive_decay": 3e38}},
    {"sampling": {"logit_bias": [[5, 3e38], [6, -3e38], [7, None]]}},
    {"ignore_eos": True, "sampling": {"temperature": 3e38, "top_k": 0, "top_p": 0.0}},
]


@pytest.fixture(scope="module")
def engine(write: Callable[..., Path]) -> Iterator[Child]:
    """One engine, exact, that must survive all tests of this file."""
    model = write("hostile", n_ctx_train=1024, endless=True)
    with Child(model, n_ctx=8192, n_seq=8, kv_type="bf16") as child:
        yield child.ready()


def encoded(id: str, fields: dict[str, Any]) -> bytes:
    """A Submit's frame, whatever its fields hold."""
    sampling = {"seed": 1} | fields.get("sampling", {})
    body = orjson.dumps({"type": "submit", "id": id, **PLAIN, **fields, "sampling": sampling})
    return struct.pack(">I", len(body)) + body


class Ends:
    """The results of all requests."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.refused: list[str] = []
        self.finished: dict[str, Finish] = {}

    def take(self, frame: Frame) -> None:
        if isinstance(frame, Rejected):
            self.refused.append(frame.id)
        elif isinstance(frame, Step):
            for id, _, said in frame.deltas:
                self.texts[id] = self.texts.get(id, "") + text_of(said)
            self.finished |= {finish.id: finish for finish in frame.finished}


def among_neighbours(engine: Child, frames: list[bytes]) -> Ends:
    """The results of all requests, with these frames sent between the neighbours' tokens."""
    ends = Ends()
    engine.send(*NEIGHBOURS)
    ends.take(engine.wait_for(Step))
    for frame in frames:
        engine.socket.sendall(frame)
    end = time.monotonic() + PATIENCE_S
    while len(ends.finished) + len(ends.refused) < len(NEIGHBOURS) + len(frames):
        assert time.monotonic() < end, (ends.refused, ends.finished)
        ends.take(engine.receive())
    return ends


@pytest.fixture(scope="module")
def undisturbed(engine: Child) -> dict[str, str]:
    """The neighbours' texts without other requests."""
    return texts_of_neighbours(among_neighbours(engine, []))


def texts_of_neighbours(ends: Ends) -> dict[str, str]:
    assert all(ends.finished[n.id].n_generated == n.max_tokens for n in NEIGHBOURS)
    return {n.id: ends.texts[n.id] for n in NEIGHBOURS}


def test_unusable_requests_are_refused(engine: Child, undisturbed: dict[str, str]) -> None:
    """Each is refused separately, by its id; the neighbours' texts are bit for bit those of an undisturbed run."""
    frames = {fields.get("id", f"hostile {i}"): fields for i, fields in enumerate(REFUSED)}
    ends = among_neighbours(engine, [encoded(id, fields) for id, fields in frames.items()])
    assert {id: frames[id] for id in ends.refused} == frames
    assert texts_of_neighbours(ends) == undisturbed


def test_odd_requests_are_computed(engine: Child, undisturbed: dict[str, str]) -> None:
    """They end normally, and so do their neighbours, with the undisturbed text."""
    frames = [encoded(f"hostile {i}", fields) for i, fields in enumerate(COMPUTED)]
    ends = among_neighbours(engine, frames)
    assert ends.refused == []
    assert texts_of_neighbours(ends) == undisturbed


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampling": {"top_k": 2**40}}, "top_k"),
        ({"sampling": {"logit_bias": [[5, 1.0], [6, "x"]]}}, "logit_bias"),
        ({"text": None, "messages": [{"role": None}]}, "messages"),
        ({"delivered": [1, None]}, "delivered"),
        ({"pace": 0}, "pace"),
    ],
)
def test_the_field_is_named(fields: dict[str, Any], named: str) -> None:
    """In the words that its client gets; of the value nothing."""
    body = encoded("x", fields)[4:]
    assert decode(body) == Rejected("x", "invalid_prompt", f"The value of {named} is not valid.")


@pytest.mark.parametrize("body", [b"{}", b'{"type":"cancel","id":7}', b'{"type":"submit","id":7}', b"[" * 100_000])
def test_what_is_no_submit_is_no_ones(body: bytes) -> None:
    """What can't be told of one request is the peer's error."""
    with pytest.raises(ProtocolError):
        decode(body)
    assert decode(encode(Cancel("x"))[4:]) == Cancel("x")


def test_what_was_made_here() -> None:
    """It was not read from the wire, and is checked just so."""
    submit = Submit(id="x", text="x", sampling=Sampling(seed=1, temperature=float("nan")))
    assert misfit(submit) == Rejected("x", "invalid_prompt", "The value of temperature is not valid.")
    assert misfit(NEIGHBOURS[0]) is None
