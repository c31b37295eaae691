"""The frames between front and engine: they arrive unchanged, however they are split, and anything else is an error."""

from __future__ import annotations

import json
import struct
from functools import partial
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import fields

from service.protocol.codec import MAX_FRAME_BYTES, Decoder, ProtocolError, decode, encode
from service.protocol.constraints import Constraints
from service.protocol.frames import (
    Accepted,
    Beat,
    Build,
    Cancel,
    Fatal,
    Finish,
    Frame,
    Loading,
    Ready,
    Rejected,
    Started,
    Step,
    Submit,
)
from service.protocol.options import Options
from service.protocol.prompting import Prompting
from service.protocol.said import Candidate, Said, TokenLogprob
from service.protocol.sampling import MAX_FLOAT, Sampling
from service.protocol.structure import Structure
from service.protocol.tooling import Tooling

TO_ENGINE: list[type[Any]] = [Options, Submit, Cancel]
FRAMES: list[type[Any]] = [*TO_ENGINE, Build, Loading, Ready, Accepted, Rejected, Started, Step, Beat, Fatal]

TAGS = sorted(cls.__struct_config__.tag for cls in FRAMES)
KINDS: dict[Any, Any] = {int: st.integers, float: partial(st.floats, allow_nan=False)}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type, within its bounds."""
    if get_origin(hint) in (Union, UnionType):
        return st.one_of([values(kind) for kind in get_args(hint)])
    if get_origin(hint) is not Annotated:
        return st.from_type(hint)
    kind, bounds = get_args(hint)
    if bounds.description:  # it has no bounds
        return values(kind)
    least, most = (bounds.gt if bounds.ge is None else bounds.ge), (bounds.lt if bounds.le is None else bounds.le)
    return KINDS[kind](least, most).filter(lambda value: value not in (bounds.gt, bounds.lt))  # type: ignore[no-any-return]


def frames(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any frame of a type, every field given."""
    return st.builds(cls, **{name: values(hint) for name, hint in get_type_hints(cls, include_extras=True).items()})


st.register_type_strategy(float, st.floats(-MAX_FLOAT, MAX_FLOAT))
for struct_type in (Sampling, Prompting, Constraints, Candidate, TokenLogprob, Said, Structure, Tooling):
    st.register_type_strategy(struct_type, frames(struct_type))
any_frame: st.SearchStrategy[Any] = st.sampled_from(FRAMES).flatmap(frames)


def plain(frame: Frame) -> Any:
    """A frame's type and values with tuples as the lists that JSON makes of them."""
    return type(frame), json.loads(json.dumps(to_builtins(frame)))


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
def test_round_trip(cls: type[Any]) -> None:
    """Every frame arrives with exactly the values that it was sent with."""

    @given(frames(cls))
    def check(frame: Frame) -> None:
        data = encode(frame)
        assert plain(decode(data[4:])) == plain(frame)
        assert struct.unpack(">I", data[:4]) == (len(data) - 4,)

    check()


def test_nested_values_arrive_as_their_types() -> None:
    """Sampling and Finish are objects again at the other side, not dicts."""
    submit = Submit(id="a", sampling=Sampling(seed=7, temperature=0.5), text="x")
    assert decode(encode(submit)[4:]) == submit
    finish = Finish(
        id="a", reason="stop", n_prompt=1, n_cached=0, n_generated=2, queue_s=0.0, prefill_s=0.5, decode_s=0.25
    )
    arrived = decode(encode(Step(finished=[finish]))[4:])
    assert isinstance(arrived, Step)
    assert arrived.finished == [finish]


def test_every_frame_has_a_type_of_its_own() -> None:
    """Both sides know all frames by distinct names."""
    assert set(get_args(Frame)) == set(FRAMES)
    assert len(set(TAGS)) == len(FRAMES)


def test_every_field_of_a_step_is_sent() -> None:
    """Under its own name, even if it has its default value."""
    step = Step(queued=[("a", 1)], prefill=[("b", 2, 3)], deltas=[("c", [4], "d")], n_running=5, kv_used=6, step_s=0.5)
    sent = json.loads(encode(step)[4:])
    assert set(sent) == {f.name for f in fields(Step)} | {"type"}
    assert sent["deltas"] == [["c", [4], "d"]]


@given(st.lists(any_frame, max_size=4), st.lists(st.integers(0, 2000)))
def test_any_cut(sent: list[Frame], cuts: list[int]) -> None:
    """Wherever the reads end, the same frames arrive in the same order."""
    data = b"".join(encode(f) for f in sent)
    decoder, got, at = Decoder(), [], 0
    for cut in [*sorted(c for c in cuts if c < len(data)), len(data)]:
        got += decoder.feed(data[at:cut])
        at = cut
    assert [plain(f) for f in got] == [plain(f) for f in sent]


def test_a_frame_is_delivered_with_its_last_byte() -> None:
    """No frame waits for the one after it."""
    data = encode(Cancel("x"))
    decoder = Decoder()
    assert [decoder.feed(bytes([b])) for b in data[:-1]] == [[]] * (len(data) - 1)
    assert decoder.feed(data[-1:]) == [Cancel("x")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"3",
        b"[]",
        b'"cancel"',
        b"{}",
        b'{"type":"cancel"}',
        b'{"type":"nonsense","id":"x"}',
        b'{"type":[],"id":"x"}',
        b'{"type":"cancel","id":"x","more":1}',
        b'{"type":"submit","id":"x","sampling":null}',
        b'{"type":"submit","id":"x","sampling":{}}',
        b'{"type":"submit","id":"x","sampling":{"seed":1,"who":2}}',
        b'{"type":"submit","id":"x"}',
        b'{"type":"step","finished":[{}]}',
        b'{"type":"step","finished":[1]}',
        b'{"type":"step","finished":3}',
        b'{"type":"beat","busy_s":NaN}',
        b"[" * 100_000,
    ],
)
def test_garbage(body: bytes) -> None:
    """A body that is not a frame is a ProtocolError, never another exception."""
    with pytest.raises(ProtocolError):
        decode(body)
    with pytest.raises(ProtocolError):
        Decoder().feed(struct.pack(">I", len(body)) + body)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    """Whatever bytes arrive, the decoder waits for more or raises ProtocolError."""
    decoder = Decoder()
    try:
        decoder.feed(data)
    except ProtocolError:
        return


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(TAGS),
)
def test_wrong_shapes(value: Any, name: str) -> None:
    """JSON of any other shape, a known type's name in it or not, is a ProtocolError or a frame."""
    for body in (value, {"type": name, "sampling": value, "finished": value}, {"type": value}):
        try:
            decode(json.dumps(body).encode())
        except ProtocolError:
            continue


def test_too_long_a_frame() -> None:
    """A length above the limit is refused at once, before any of its bytes are awaited."""
    with pytest.raises(ProtocolError, match=str(MAX_FRAME_BYTES + 1)):
        Decoder().feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
    assert Decoder().feed(struct.pack(">I", MAX_FRAME_BYTES)) == []


def test_text_survives() -> None:
    """NUL, line ends, quotes and characters above U+FFFF arrive unchanged."""
    text = '\0\r\n\u2028"\\/</script>\U0001f98a\ufffd'
    assert decode(encode(Submit(id="a", sampling=Sampling(seed=0), text=text))[4:]).text == text  # type: ignore[union-attr]
