from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from service.dialects import sse
from service.dialects.events import Phase, Status
from service.dialects.native import Native, lost
from service.errors import StreamLost
from tests.events import parse

# A text has no surrogates: the engine decodes it from UTF-8.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def test_a_block_is_an_id_a_body_and_a_blank_line() -> None:
    """Lines end in LF only, the id comes first, and one blank line ends the block."""
    assert sse.block(b"abc", 7, 0xBEEF, Native().delta(" fox")) == b'id: abc.7.0000beef\ndata: {"text":" fox"}\n\n'


def test_the_heartbeat_is_a_comment_with_one_line_feed() -> None:
    """After a blank line openai-python would decode an empty event."""
    assert sse.HEARTBEAT == b": hb\n"


@given(TEXTS)
def test_any_text_survives(text: str) -> None:
    """A delta's text is what an EventSource reads, and always on one data line."""
    (event,) = parse(sse.block(b"s", 0, 0, Native().delta(text)))
    assert {"text": text} == event.json()


def test_a_status_leaves_out_unknown_fields() -> None:
    """Each phase has its own fields."""
    native = Native()
    assert native.status(Status(Phase.ANSWERING)) == b'event: status\ndata: {"phase":"answering","position":0}'
    assert (
        native.status(Status(Phase.QUEUED, 3, 1.5))
        == b'event: status\ndata: {"phase":"queued","position":3,"eta_s":1.5}'
    )


def test_a_lost_stream_has_the_id_that_stops_a_reader() -> None:
    """It is one failure with the id `lost`: reconnecting with that id gets 204."""
    (event,) = parse(lost(StreamLost("gone")))
    assert (event.id, event.name, orjson.loads(event.data)["error"]["code"]) == ("lost", "failure", "stream_lost")
