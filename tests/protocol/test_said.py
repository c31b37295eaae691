"""What a delta says, as it travels in a Step."""

from __future__ import annotations

import json

from service.protocol.codec import decode, encode
from service.protocol.frames import Step
from service.protocol.said import Candidate, Said, TokenLogprob, text_of

SAID = Said("✨", [TokenLogprob("\ufffd", b"\xe2\x9c", -0.5, 0, [Candidate("<s>", None, -0.25)])])


def test_it_arrives_as_it_was_sent() -> None:
    """With exact bytes; mere text stays a string on the wire."""
    step = Step(deltas=[("a", [1], "x"), ("b", [2, 3], SAID)])
    assert decode(encode(step)[4:]) == step
    assert json.loads(encode(step)[4:])["deltas"][0] == ["a", [1], "x"]


def test_its_text() -> None:
    """Of both forms."""
    assert (text_of("x"), text_of(SAID), text_of(Said())) == ("x", "✨", "")
