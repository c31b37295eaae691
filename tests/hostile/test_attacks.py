"""The attacks get past the door: what they send is no larger than what is taken, and of the shape that is asked for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from service.api.fields import MAX_GRAMMAR_CHARS
from service.api.params import StreamRequest, parse_json, validate
from service.settings import Settings
from tests.hostile import attacks
from tests.hostile.attacks import KINDS

ORDERS = {name: getattr(attacks, name) for name in ("FLOOD", "COSTLY", "UNCHECKED", "DEAREST")}
ORDERS |= {"KEPT": attacks.KEPT | {"prompt": "x"}, "MESSAGES": attacks.MESSAGES}
BODIES = {name: getattr(attacks, name) for name in ("NEWLINES", "LETTERS", "TABS", "MARKS", "IDS", "BIASES", "PARTS")}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_an_order_that_is_taken(order: dict[str, Any]) -> None:
    """The schema lets it pass: it is the engine that has to cope."""
    validate(StreamRequest, parse_json(orjson.dumps(order))).to_order()


@pytest.mark.parametrize("body", [*BODIES.values(), attacks.WRONG_AT_LAST], ids=[*BODIES, "WRONG_AT_LAST"])
def test_a_body_that_is_read(body: bytes) -> None:
    """As large as a body may be, or nearly."""
    assert 0.7 < len(body) / Settings().max_body_bytes <= 1


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_json(body: bytes) -> None:
    """What is wrong about it is not its syntax."""
    parse_json(body)


def test_grammars_are_as_long_as_may_be() -> None:
    """One more character, and they would not be read."""
    for grammar in (attacks.UNCHECKED["grammar"], attacks.KEPT["grammar"], attacks.FLOOD["grammar"]):
        assert 0.9 < len(str(grammar)) / MAX_GRAMMAR_CHARS <= 1
    assert len(str(attacks.COSTLY["grammar"])) < 2048


def test_kinds_have_names_of_their_own() -> None:
    """A row each."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
